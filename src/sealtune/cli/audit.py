"""``sealtune audit``: attacks on a finished run, without protection and against it.

Trust domain: operator (untrusted); whoever may read the run's rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealtune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from sealtune.audit.attack import Attack
    from sealtune.audit.subject import Subject

_COLOURS = {"held": "green", "limit": "yellow", "broken": "bold red", "attack too weak": "dim"}


def audit(
    run_dir: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="Folder that `sealtune run` wrote, as runs/my-job."),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="NAME,...", help="These attacks alone.")
    ] = "",
    list_: Annotated[
        bool, typer.Option("--list", help="Show the attacks, and which apply to RUN.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer trials: wider intervals, a quarter of the time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is in audit.json.")] = False,
) -> None:
    """Attack a finished run: once without its protection, once against it.

    Each attack works on a small part of the run, the first blocks of its model and some of its
    rows, with the run's own settings and code, and takes a minute or two on 2 cores. RUN/audit.json
    and the report get each one's success beside what guessing gets, with intervals. An attack that
    fails without protection shows nothing, and the verdict says so.

    The exit code is 1 if an attack succeeds where it should not. docs/audit.md explains them all.

    Examples:

        sealtune audit runs/icd10

        sealtune audit runs/icd10 --only adapter-extraction,pad-reuse --quick

        sealtune audit --list
    """
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    with console.status("loading"):
        from sealtune.audit.attacks import ATTACKS
        from sealtune.audit.record import broken, carry_out, entries
        from sealtune.audit.subject import Subject

        chosen = _chosen(ATTACKS, only)
        if run_dir is None and not list_:
            words = "is missing: give the folder that `sealtune run` wrote"
            raise ConfigError("command line", [Problem("RUN", words)])
        subject = Subject(run_dir, quick=quick) if run_dir is not None else None
    if list_ or subject is None:
        _list(chosen, subject, as_json=as_json)
        return
    if not subject.same_code:
        console.print(
            "note: the code installed here is not the code that this run signed; it is what is "
            "attacked",
            style="yellow",
        )
    with _Bars(console) as bars:
        kept = entries(subject.folder, subject.job_id)
        record = carry_out(subject, chosen, bars.show, kept)
    page = _report(subject.folder)
    if as_json:
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
    else:
        _show(record, Console(highlight=False), page)
    if broken(record):
        raise typer.Exit(1)


def _chosen(attacks: Sequence[Attack], only: str) -> list[Attack]:
    """Those named in ``only``, in the order of ``attacks``; all if none is."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    known = [attack.name for attack in attacks]
    if unknown := [name for name in names if name not in known]:
        problems = [Problem("--only", f"there is no attack {name!r}") for name in unknown]
        raise ConfigError("command line", problems, hint=f"there are {', '.join(known)}")
    return [attack for attack in attacks if not names or attack.name in names]


def _list(attacks: Sequence[Attack], subject: Subject | None, *, as_json: bool) -> None:
    rows = [
        {
            "name": attack.name,
            "what": attack.what,
            "adversary": attack.adversary,
            "not_applicable": attack.applies(subject) if subject else None,
        }
        for attack in attacks
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.secho(row["name"], bold=True)
        typer.echo(f"  {row['what']}\n  Adversary: {row['adversary']}.")
        if row["not_applicable"]:
            typer.secho(f"  does not apply to this run: {row['not_applicable']}", fg="yellow")


class _Bars:
    """A progress bar for each attack."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[what]}"),
            console=console,
        )
        self._tasks = dict[str, Any]()

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, attack: Attack, share: float, what: str) -> None:
        """See ``record.Progress``."""
        if attack.name not in self._tasks:
            self._tasks[attack.name] = self._progress.add_task(attack.name, total=1.0, what="")
        self._progress.update(self._tasks[attack.name], completed=share, what=what)


def _report(run_dir: Path) -> Path | None:
    """The run's page with the attacks in it; None: the folder has no log to make one of."""
    from sealtune.report.log import METRICS
    from sealtune.report.page import write

    return write(run_dir) if (run_dir / METRICS).is_file() else None


def _show(record: Mapping[str, Any], console: Console, page: Path | None) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for entry in record["attacks"]:
        console.print(Text(entry["name"], style="bold"))
        if entry["not_applicable"]:
            console.print(
                Padding(Text(f"does not apply: {entry['not_applicable']}", "dim"), (0, 2))
            )
        for one in entry["findings"]:
            head = Text.assemble((f"{one['verdict']}: ", _COLOURS[one["verdict"]]), one["variant"])
            rates = (
                f"without protection {_rate(one['baseline'])}, with it {_rate(one['protected'])}, "
                f"guessing {one['chance']:.3g}"
            )
            lines = [head, Text(rates), Text(one["measure"], "dim"), Text(one["note"], "dim")]
            for number, line in enumerate(filter(None, lines)):
                console.print(Padding(line, (0, 0, 0, 6 if number else 2)))
    console.print(f"{record['level']:.1%} intervals")
    if page:
        console.print(f"report: {page}", soft_wrap=True)


def _rate(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return "is none"
    return f"{rate['value']:.3g} ({rate['low']:.3g} to {rate['high']:.3g})"
