"""``sealtune doctor``: what this machine offers, and what each role of a job still needs.

Started as ``python -m sealtune.cli.doctor`` it needs typer and rich and none of sealtune's other
packages.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sealtune.doctor.finding import Finding, State
from sealtune.doctor.roles import EVIDENCE, PROGRAMS, Colour, Role, Verdict

_STATES = {
    State.GOOD: ("ok  ", "green"),
    State.POOR: ("weak", "yellow"),
    State.MISSING: ("no  ", ""),
    State.UNKNOWN: ("?   ", ""),
}
_COLOURS = {Colour.GREEN: "green", Colour.AMBER: "yellow", Colour.RED: "red"}


def _evidence(word: str) -> str:
    if word and word not in EVIDENCE:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(EVIDENCE)}")
    return word


def doctor(
    role: Annotated[
        Role | None, typer.Option("--role", help="Only what this role needs, and its exit code.")
    ] = None,
    evidence: Annotated[
        str,
        typer.Option(
            "--evidence",
            metavar=f"[{'|'.join(EVIDENCE)}]",
            callback=_evidence,
            help="What the role has to show. Default: any hardware.",
        ),
    ] = "",
    gpu: Annotated[
        bool, typer.Option("--gpu-evidence", help="The role must show evidence of a GPU, too.")
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A job's: takes the evidence from it, and asks its coordinator for the time.",
        ),
    ] = None,
    image: Annotated[
        bool, typer.Option("--image", help="The enclave is an image that is started here.")
    ] = False,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where state is to be kept.")
    ] = Path(),
    port: Annotated[
        list[int] | None,
        typer.Option("--port", min=1, max=65535, help="A port that must be free."),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="FILE", help="A file that must be yours alone."),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Leave out what loads torch: int8 products.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what this machine offers, what each role needs, and what to install.

    GREEN is there. AMBER works, slower or with less protection. RED does not work. The exit code is
    1 if something is RED for the role that was asked for, else 0. Nothing is changed, and without
    `--manifest` nothing is sent. Where packages are missing, so that `sealtune` itself does not
    start: `python -m sealtune.cli.doctor`.

    Examples:

        sealtune doctor

        sealtune doctor --role server --evidence sev-snp

        sealtune doctor --role site --manifest job.manifest.json

        sealtune doctor --role coordinator --port 9092 --port 9093 --json
    """
    from sealtune.doctor.examine import examine
    from sealtune.doctor.job import Asked, asked_by
    from sealtune.doctor.machine import this_machine
    from sealtune.doctor.roles import judge

    roles = [role] if role else list(Role)
    programs = {str(one): PROGRAMS[one] for one in roles}
    job = asked_by(manifest) if manifest else Asked(())
    listen = [*(port or ()), *(job.ports if role is Role.COORDINATOR else ())]
    findings = [
        *examine(this_machine(fast=fast), programs, state=folder, listen=listen, keys=key or ()),
        *(one for one in job.findings if role is not Role.COORDINATOR or one.key == "manifest"),
    ]
    verdicts = [
        judge(
            one,
            findings,
            evidence or job.evidence.get(one, ""),
            gpu=gpu or one in job.gpu,
            image=image,
            changes=job.changes.get(one),
        )
        for one in roles
    ]
    if as_json:
        typer.echo(json.dumps(as_object(findings, verdicts), indent=2))
    else:
        show(findings, verdicts)
    if role and verdicts[0].colour is Colour.RED:
        raise typer.Exit(1)


def as_object(findings: Sequence[Finding], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What ``--json`` prints; docs/doctor.md has the keys."""
    return {
        "version": 1,
        "findings": {finding.key: _finding(finding) for finding in findings},
        "roles": {
            str(verdict.role): {
                "colour": str(verdict.colour),
                "listens": verdict.listens,
                "needs": {
                    finding.key: {"colour": str(colour), **_finding(finding)}
                    for finding, colour in verdict.colours
                },
                "install": list(_install(f for f, c in verdict.colours if c is not Colour.GREEN)),
            }
            for verdict in verdicts
        },
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "state": str(finding.state),
        "words": finding.words,
        "remedy": finding.remedy,
        "install": list(finding.install),
        "value": finding.value,
    }


def _install(findings: Iterable[Finding]) -> dict[str, None]:
    """Packages, each once, in order."""
    return dict.fromkeys(name for finding in findings for name in finding.install)


def show(findings: Sequence[Finding], verdicts: Sequence[Verdict]) -> None:
    """Print what is here, and for each role what counts."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    absent = {f.key for f in findings if f.state is State.MISSING}
    shown = [f for f in findings if f.key.rpartition(".")[0] not in absent]
    width = max(len(finding.key) for finding in shown)
    console.print(Text("This machine", "bold"))
    for finding in shown:
        mark, style = _STATES[finding.state]
        console.print(
            Text.assemble((f"  {mark}  ", style), (f"{finding.key:{width}}  ", "dim")),
            Text(_plain(finding.words)),
            sep="",
        )
    for verdict in verdicts:
        console.print()
        console.print(
            Text.assemble(
                (f"{verdict.role}: ", "bold"),
                (verdict.colour.upper(), f"bold {_COLOURS[verdict.colour]}"),
            )
        )
        console.print(Text(f"  {verdict.listens}", "dim"))
        for finding, colour in sorted(verdict.colours, key=_worst_first):
            if colour is Colour.GREEN:
                continue
            line = Text.assemble((f"  {colour.upper():5}  ", _COLOURS[colour]), f"{finding.key}: ")
            console.print(line + Text(_plain(finding.words)))
            if finding.remedy:
                console.print(Text.assemble(("         → ", "cyan"), _plain(finding.remedy)))
        good = sum(colour is Colour.GREEN for _, colour in verdict.colours)
        console.print(Text.assemble(("  GREEN  ", "green"), f"{good} of {len(verdict.colours)}"))
        install = _install(f for f, c in verdict.colours if c is not Colour.GREEN)
        if install:
            console.print(Text(f"  apt install {' '.join(install)}", "bold"))


def _worst_first(pair: tuple[Finding, Colour]) -> int:
    return -list(Colour).index(pair[1])


def _plain(text: str) -> str:
    """Names in files must not steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


if __name__ == "__main__":
    typer.run(doctor)
