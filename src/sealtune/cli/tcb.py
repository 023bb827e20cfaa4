"""``sealtune tcb``: how much code has to be believed for each program of a run.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealtune.programs.facts import Facts


def tcb(
    program: Annotated[
        str | None, typer.Argument(metavar="[PROGRAM]", help="One of them, such as aggregator.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    pin: Annotated[
        bool, typer.Option("--pin", help="After a change of imports: write the lists anew.")
    ] = False,
) -> None:
    """Show the trusted code of each program: modules and lines of sealtune, packages of others.

    A program finds the files of its list (`programs/NAME.txt` in the package) and nothing else of
    sealtune, and its code digest covers exactly these. Packages are those that it loads when it
    starts, seen by starting it.

    Examples:

        sealtune tcb

        sealtune tcb aggregator --json
    """
    from sealtune.errors import ConfigError, Problem
    from sealtune.programs import reach
    from sealtune.programs.facts import facts

    if pin:
        for name in reach.pin():
            typer.echo(f"written anew: {name}")
        return
    if program is not None and program not in reach.MAINS:
        names = ", ".join(reach.MAINS)
        raise ConfigError("PROGRAM", [Problem(program, f"is no program; there are {names}")])
    programs = {name: facts(name) for name in ([program] if program else reach.MAINS)}
    if as_json:
        document = {"programs": {name: _as_json(loaded) for name, loaded in programs.items()}}
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(programs)


def _as_json(facts: Facts) -> dict[str, object]:
    return {
        **facts.at_start._asdict(),
        "distributions": facts.distributions,
        "on_demand": {**facts.on_demand._asdict(), "distributions": facts.later},
    }


def _show(programs: dict[str, Facts]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("program", title="code that each program loads", title_justify="left")
    for column in ("modules", "lines", "lines on demand", "packages", "on demand"):
        table.add_column(column, justify="right")
    for name, facts in programs.items():
        start, later = facts.at_start, facts.on_demand
        packages = (len(facts.distributions), len(facts.later))
        counts = (start.modules, start.lines, later.lines, *packages)
        table.add_row(name, *(f"{count:,}" for count in counts))
    console = Console()
    console.print(table)
    for name, facts in programs.items():
        more = f"; on demand {', '.join(facts.later)}" if facts.later else ""
        console.print(f"{name}: {', '.join(facts.distributions)}{more}", highlight=False)
