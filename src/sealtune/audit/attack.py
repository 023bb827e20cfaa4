"""An attack: what it is, whose it is, to which runs it applies, and how it is carried out.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sealtune.audit.finding import Finding
from sealtune.audit.subject import Subject

Report = Callable[[float, str], None]  # the share that is done, 0 to 1, and what goes on


def _to_every_run(subject: Subject) -> str:
    return ""


@dataclass(frozen=True)
class Attack:
    """One kind of attack.

    Attributes:
        name: on the command line, and of its findings.
        what: what is attempted, in a sentence.
        adversary: who can attempt it, and what they hold; no sentence.
        run: carries it out on a miniature of the run, without protection and against it. The same
            run gives the same findings, but for what the protection draws at random.
        applies: why it does not apply to a run; empty: it does.
    """

    name: str
    what: str
    adversary: str
    run: Callable[[Subject, Report], list[Finding]]
    applies: Callable[[Subject], str] = _to_every_run
