"""``sealtune advise``: which method fits a job and this equipment, and where to cut.

Trust domain: the operator's or a data owner's terminal, before a run; structure and counts only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from sealtune.advise.assess import Assessment
    from sealtune.advise.choose import Advice
    from sealtune.advise.counts import Counts
    from sealtune.advise.equipment import Equipment
    from sealtune.advise.estimate import Option
    from sealtune.advise.places import Place

# docs/advise.md and docs/figures.md say the same, with what was measured
ACCURACY = (
    "Estimates of memory and processor time are within 30 % of measured pieces of a 135M model, "
    "bytes exact; a step of causal-lm takes 40 % longer than estimated. Times assume machines "
    "that do nothing else (docs/advise.md)."
)
PLACES = (
    "A small model of this make was trained in each place and scaled up. On a machine that does "
    "other things, too, places whose processes take turns look slower than they are."
)


class Prefer(StrEnum):
    """What to rank by."""

    TIME = "time"
    COST = "cost"


def advise(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    prefer: Annotated[
        Prefer, typer.Option("--prefer", help="Rank by hours, or by the costs in [equipment].")
    ] = Prefer.TIME,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            help="Measure this machine for what [equipment] leaves out, and where a site's step "
            "is fastest (half a minute), or take a 2-core reference machine's figures.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Estimate memory, bytes, hours and cost of each method and cut, and say which one fits.

    Reads the model's configuration, not its weights, and counts the tokens of the job's files. What
    there is to compute with stands in the section `[equipment]`; the rest is probed here. The exit
    code is 1 if nothing fits.

    Examples:

        sealtune advise job.toml

        sealtune advise job.toml --prefer cost

        sealtune advise job.toml --no-probe --json > advice.json
    """
    from sealtune.advise.assess import assess
    from sealtune.advise.choose import choose
    from sealtune.data.site import discover_labels
    from sealtune.job.load import check_files, load_job

    job = load_job(job_file)
    check_files(job)
    timed = probe and "masked" in job.job.rules.computes
    assessment = assess(
        job,
        discover_labels(job),
        job.equipment,
        probing=probe,
        variables=_enclave_variables() if timed else None,
    )
    advice = choose(assessment.options, assessment.job, assessment.equipment, prefer.value)
    if as_json:
        found = as_dict(advice, assessment.counts, assessment.equipment)
        typer.echo(json.dumps({**found, "places": places_dict(assessment)}, indent=2))
    else:
        console = Console()
        show(advice, assessment.counts, assessment.equipment, console)
        if timed:
            show_places(assessment, console)
    if advice.best is None:
        raise typer.Exit(1)


def _enclave_variables() -> dict[str, str]:
    """What `sealtune run` would give the one site of a machine."""
    from sealtune.launch.environment import variables
    from sealtune.launch.threads import cores, thread_settings

    return variables(thread_settings("client", 1, cores()))


def places_dict(assessment: Assessment) -> list[dict[str, Any]]:
    """Where a site's step could be computed, for ``--json``; empty if it was not measured."""
    return [
        {
            "name": place.name,
            "setting": place.setting,
            "needs": place.needs,
            "precision": place.precision,
            "seconds": {key: round(value, 4) for key, value in place.seconds.items()},
            "step": round(place.step, 4),
        }
        for place in assessment.places
    ]


def show_places(assessment: Assessment, console: Console) -> None:
    """Print seconds of a site's training step in each place, and the fastest."""
    from rich.table import Table

    from sealtune.advise.places import fastest

    if not assessment.places:
        console.print(f"[dim]places: not measured: {assessment.not_measured}[/]", highlight=False)
        return
    assert assessment.step is not None
    precision = assessment.job.train.precision
    best = fastest(assessment.places, precision)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("where frozen layers are computed", no_wrap=True)
    for head in ("enclave", "accel.", "pads", "a step"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("needs")
    for place in sorted(assessment.places, key=lambda one: one.step):
        pieces = [place.seconds.get(key) for key in ("enclave", "accelerator", "pads")]
        cells = ["-" if value is None else f"{value:.3g} s" for value in pieces]
        style = "bold green" if place is best else ""
        table.add_row(place.name, *cells, f"{place.step:.3g} s", place.needs, style=style)
    tokens = f"{assessment.step.tokens:,.0f} tokens"
    console.print(f"[bold]A site's training step[/] of {tokens}, in this machine's enclave")
    console.print(table)
    console.print(f"[bold]Fastest in {precision}:[/] {_against(best, assessment.places)}")
    console.print(f"[dim]{PLACES}[/]", highlight=False)


def _against(best: Place, places: Sequence[Place]) -> str:
    """The fastest place, how to ask for it, and what the next one of its precision takes."""
    text = f"{best.name} ({best.setting}), {best.step:.3g} s a step"
    others = [p for p in places if p is not best and p.precision == best.precision]
    if others:
        other = min(others, key=lambda place: place.step)
        text += f", against {other.step:.3g} s for {other.name}"
        piece = max(other.seconds, key=lambda key: other.seconds[key] - best.seconds.get(key, 0.0))
        text += f" (its {piece}: {other.seconds[piece]:.3g} s)"
    quicker = min(places, key=lambda place: place.step)
    if quicker.step < best.step:
        text += f"; {quicker.name} would take {quicker.step:.3g} s"
    return text


def as_dict(advice: Advice, counts: Counts, equipment: Equipment) -> dict[str, Any]:
    """What ``--json`` prints."""
    values = equipment.spec.model_dump()
    return {
        "recommended": None if advice.best is None else advice.best.name,
        "reason": advice.reason,
        "options": [_option(option) for option in advice.options],
        "equipment": {
            name: {"value": value, "source": equipment.sources[name]}
            for name, value in values.items()
        },
        "data": {
            "rows": counts.rows,
            "rows_tokenised": counts.counted,
            "tokens": {
                site: part.tokens + counts.test[site].tokens for site, part in counts.train.items()
            },
        },
        "accuracy": ACCURACY,
    }


def _option(option: Option) -> dict[str, Any]:
    return {
        "name": option.name,
        "way": option.way,
        "protect": option.protect or None,
        "cut": option.cut,
        "own": option.own,
        "memory_mib": option.memory_mib,
        "bytes": option.bytes,
        "seconds": {name: round(value, 3) for name, value in option.seconds.items()},
        "hours": round(option.hours, 5),
        "cost": round(option.cost, 4),
        "ruled_out": list(option.ruled_out),
    }


def show(advice: Advice, counts: Counts, equipment: Equipment, console: Console) -> None:
    """Print the table, the choice, and what it rests on."""
    from rich.table import Table

    from sealtune.job.units import duration, size

    priced = any(option.cost for option in advice.options)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("memory; bytes\nof all sites", no_wrap=True)
    heads = ["site\nTEE", "server\nTEE", "owner", "sent\nup", "down", "to/from\naccel.", "time"]
    for head in [*heads, *(["cost"] if priced else [])]:
        table.add_column(head, justify="right", no_wrap=True)
    for option in advice.options:
        places = ("client_enclave", "server_enclave", "owner_machine")
        memory = [option.memory_mib[place] for place in places]
        cells = [size(mib * 2**20) if mib else "-" for mib in memory]
        sent = [option.bytes[link] for link in ("uplink", "downlink", "accelerator")]
        cells += [size(count) if count else "-" for count in sent]
        cells += [duration(option.hours * 3600), *([f"{option.cost:.2f}"] if priced else [])]
        chosen = advice.best is not None and option.name == advice.best.name
        style = "bold green" if chosen else "dim" if option.ruled_out else ""
        name = option.name.replace("Method 2 (split)", "Method 2")
        table.add_row(f"{name}{' *' if option.own else ''}", *cells, style=style)
    console.print("[bold]Estimates[/] (*: as the job is written)")
    console.print(table)
    console.print(f"[bold]{'Take' if advice.best else 'Advice'}:[/] {advice.reason}")
    for reasons, names in _ruled_out(advice.options).items():
        console.print(f"[dim]out: {names}: {reasons}[/]", highlight=False)
    console.print(f"[dim]{_basis(counts, equipment)}[/]", highlight=False)
    console.print(f"[dim]{ACCURACY}[/]", highlight=False)


def _ruled_out(options: tuple[Option, ...]) -> dict[str, str]:
    """Reasons -> the options that they rule out; cuts of one reason together."""
    together: dict[str, list[Option]] = {}
    for option in options:
        if option.ruled_out:
            together.setdefault("; ".join(option.ruled_out), []).append(option)
    return {reasons: ", ".join(_names(some)) for reasons, some in together.items()}


def _names(options: list[Option]) -> list[str]:
    names = [option.name for option in options if option.cut is None]
    at = [str(option.cut) for option in options if option.cut is not None]
    return names + ([f"Method 2 (split), cut {', '.join(at)}"] if at else [])


def _basis(counts: Counts, equipment: Equipment) -> str:
    values = equipment.spec.model_dump()
    shown = ["server_tee_tflops", "owner_tflops", "client_tee_tflops", "accelerator_tops"]
    shown += ["uplink_mbit", "downlink_mbit"]
    speeds = ", ".join(f"{n} {values[n]:g} ({equipment.sources[n]})" for n in shown)
    part = "" if counts.counted == counts.rows else f", {counts.counted:,} of them tokenised"
    return f"data: {counts.rows:,} rows{part}. equipment: {speeds}"
