"""A job's manifest as a page: what everybody is about to sign, in one file that needs nothing else.

    page = render(shown)     # HTML; ``shown`` has the same words as `sealtune job show`

Trust domain: a participant's own machine; every word of a manifest passes through autoescape.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from sealtune.report.methods import view_of
from sealtune.report.page import STYLE, environment
from sealtune.report.parties import Facts

Tone = Literal["", "good", "note", "bad", "dim"]


class Line(NamedTuple):
    """One fact: its name, its words, and what to think of it. ``key`` is compared by voice."""

    name: str
    words: str
    tone: Tone = ""
    key: bool = False


class Group(NamedTuple):
    """Facts of one thing, such as an organisation; ``state`` stands beside its title."""

    title: str
    lines: tuple[Line, ...]
    tone: Tone = ""
    state: str = ""
    above: str = ""  # whose kind of evidence it is


class Part(NamedTuple):
    """A section."""

    title: str
    groups: tuple[Group, ...]
    note: str = ""


class Shown(NamedTuple):
    """All that is shown of a manifest.

    Attributes:
        name: of the job.
        job_id: SHA-384 of the manifest.
        method: its name.
        weak: what is weaker than it could be, each in a sentence.
        unsigned: organisations that have not signed.
        parts: in the order in which people should ask.
        facts: for the picture of who sees what.
    """

    name: str
    job_id: str
    method: str
    weak: tuple[str, ...]
    unsigned: tuple[str, ...]
    parts: tuple[Part, ...]
    facts: Facts


def render(shown: Shown) -> str:
    """The page."""
    view = view_of(shown.method)
    template = environment().get_template("manifest.html")
    unknown = dict.fromkeys(("up", "down", "enclave_to_accelerator", "accelerator_to_enclave"))
    return template.render(
        style=STYLE,
        shown=shown,
        view=view,
        picture=view.picture(shown.facts),
        s={"bytes": unknown},  # nothing has been sent yet
    )
