"""A job manifest on a terminal; ``report.manifest_page`` has the same as a page.

Trust domain: a participant's own machine; manifests come from outside.
"""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sealtune.report.manifest_page import Group, Line, Shown, Tone
from sealtune.report.methods import view_of

_STYLES: Mapping[Tone, str] = {
    "": "", "good": "green", "note": "yellow", "bad": "bold red", "dim": "dim",
}  # fmt: skip


def show_manifest(shown: Shown, console: Console) -> None:
    """Print it."""
    for part in shown.parts:
        _heading(console, part.title)
        for group in part.groups:
            _group(console, group)
        if part.note:
            console.print(Text(part.note, "dim"))
    _heading(console, "What each party will see")
    _parties(shown, console)


def _group(console: Console, group: Group) -> None:
    if group.above:
        console.print(Text(group.above, "bold"))
    if group.title and group.state:
        state = (group.state, _STYLES[group.tone])
        console.print(Text.assemble((group.title, "bold"), "  ", state), soft_wrap=True)
    elif group.title:
        style = f"bold {_STYLES[group.tone]}".replace("bold bold", "bold").strip()
        console.print(Text(group.title, style), soft_wrap=True)
    for line in group.lines:
        _line(console, line)


def _line(console: Console, line: Line) -> None:
    # digests stay on one line, so that they can be copied and searched for
    words = Text(line.words, _STYLES[line.tone])
    console.print(Text.assemble((f"  {line.name:<10} ", "dim"), words), soft_wrap=True)


def _parties(shown: Shown, console: Console) -> None:
    view, facts = view_of(shown.method), shown.facts
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("party", "sees", "never sees"):
        table.add_column(heading, overflow="fold")
    for party in view.parties(facts):
        bad = party.kind in {"simulated", "exposed"}
        title = Text.assemble((party.title, "bold"), "\n", (party.trust, "red" if bad else "dim"))
        table.add_row(title, party.sees, party.never)
    console.print(table)
    if facts.simulated:
        words = "simulated enclaves keep nothing from whoever runs their machine, whatever it says"
        console.print(Text(words, _STYLES["bad"]), soft_wrap=True)
    seen = view.picture(facts).hidden
    console.print(Text(f"not hidden from anybody: {seen}", "dim"), soft_wrap=True)


def _heading(console: Console, words: str) -> None:
    console.print()
    console.print(Text(words, "bold underline"))
