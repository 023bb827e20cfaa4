"""``sealtune run``: the whole job on this machine, each trust domain in a process of its own.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sealtune.errors import ConfigError, Problem, SealtuneError
from sealtune.job.private import private_files

if TYPE_CHECKING:
    from sealtune.job import compute_rules
    from sealtune.job.local import Local
    from sealtune.job.spec import Job


_RUNS = Path("runs")


class Device(StrEnum):
    """Where a program computes."""

    CPU = "cpu"
    CUDA = "cuda"


class Baseline(StrEnum):
    """A comparison that protects nothing."""

    LOCAL = "local"
    POOLED = "pooled"
    PLAIN_FEDERATED = "plain-federated"


_Runs = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="Results go to DIR/<name of the job>.")
]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")]
_Force = Annotated[
    bool, typer.Option("--force", help="Remove the run that is there and start over.")
]
_Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=1, max=65535, help="Port of the network engine's relay on 127.0.0.1."
    ),
]
_ManifestFile = Annotated[
    Path | None,
    typer.Option(
        "--manifest",
        metavar="FILE",
        help="Manifest signed by every participant [default: throw-away keys sign one].",
    ),
]
_Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Private key of an organisation in --manifest; repeat it. Only jobs whose "
        "sites sign who they are need keys to run: split ones, secure aggregation.",
    ),
]
_Images = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="PARTY=DIR",
        help="Boot an image for `server` or a site, in place of its process; repeat it.",
    ),
]
_Device = Annotated[
    Device | None,
    typer.Option(
        "--device",
        help='Where whoever trains computes, in the place of the job\'s; "cpu" stands in for a '
        'simulated compute = "attested-gpu".',
    ),
]
_Baseline = Annotated[
    Baseline | None,
    typer.Option(
        "--baseline",
        help="Run a plain comparison instead: each site alone, all data pooled, or federated "
        "without enclaves and masks.",
    ),
]


@private_files()
def run(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    runs: _Runs = _RUNS,
    resume: _Resume = False,
    force: _Force = False,
    port: _Port = None,
    manifest: _ManifestFile = None,
    key: _Keys = None,
    image: _Images = None,
    device: _Device = None,
    baseline: _Baseline = None,
) -> None:
    """Run a job: every site, the server, the accelerator and the network on this machine.

    Examples:

        sealtune run job.toml

        sealtune run job.toml --manifest job.manifest.json

        sealtune run split.toml --manifest split.manifest.json --key north.key --key south.key

        sealtune run job.toml --resume

        sealtune run job.toml --baseline local
    """
    from sealtune.job.load import load_job
    from sealtune.job.scratch import sweep

    sweep()  # what a run that was killed left behind, whatever becomes of this one
    job = load_job(job_file)
    run_dir = runs / job.job.name
    if baseline is not None:
        _baseline(job, baseline, run_dir, (device or Device.CPU).value)
        return
    if key and manifest is None and not resume:
        raise ConfigError(
            "--key",
            [Problem("--manifest", "is needed with --key: the manifest that these keys signed")],
            hint="without --manifest throw-away keys would sign, and these would go unused",
        )
    from sealtune import launch
    from sealtune.cli.run_folder import images_of, prepare, signed_manifest, take_up

    envelope = None if manifest is None else signed_manifest(manifest)
    launch.check(run_dir, resume=resume, force=force)
    if port is not None:
        launch.check_port(port)
    images = images_of(job, image or [])
    where = cast("compute_rules.Device | None", device and device.value)
    if resume:
        parties, majority = take_up(job, job_file, run_dir, envelope, key or [], images, where)
    else:
        parties, majority = prepare(
            job, job_file, run_dir, force, envelope, key or [], images, where
        )
    _launch(parties, job_file, run_dir, port, majority)


def _launch(
    parties: Sequence[Local],
    job_file: Path,
    run_dir: Path,
    port: int | None,
    majority: float | None,
) -> None:
    """Run, report, and say where things are, however it ended."""
    from rich.console import Console

    from sealtune import launch, report
    from sealtune.attest.evidence import Kind
    from sealtune.attest.platforms import platform
    from sealtune.cli.results import show_results
    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import open_manifest
    from sealtune.party.trust import SERVER

    console = Console(highlight=False)
    manifest = open_manifest(Envelope.read(run_dir / launch.MANIFEST))
    facts = {"majority_class": majority, "job_file": str(job_file)}
    try:
        launch.run(parties, port=port, console=console, facts=facts)
    except (SealtuneError, launch.Interrupted) as error:
        with contextlib.suppress(SealtuneError):  # the run's own error is the one to tell
            report.write(run_dir)
        if isinstance(error, launch.Interrupted):
            kind = Kind(manifest.settings.protection.evidence(SERVER))
            lasts = platform(kind).keeps_state
            again = f"continue with: {_again(job_file, run_dir)}" if lasts else "it cannot go on"
            console.print(f"stopped; {again}", soft_wrap=True, markup=False)
            raise typer.Exit(error.exit_code) from error
        raise
    if manifest.release == "participants":
        lora, own = manifest.settings.tuning.lora, manifest.plan.personal
        ranks = lora.ranks if lora else {}
        launch.collect_adapter(run_dir, manifest.settings.sites.names, own, ranks)
    page = report.write(run_dir)
    show_results(report.build_summary(run_dir), run_dir, page, console)


def _again(job_file: Path, run_dir: Path) -> str:
    """The command that continues this run."""
    command = ["sealtune", "run", str(job_file)]
    if run_dir.parent != _RUNS:
        command += ["--runs", str(run_dir.parent)]
    return shlex.join([*command, "--resume"])


def _baseline(job: Job, kind: Baseline, run_dir: Path, device: compute_rules.Device) -> None:
    """Run a comparison; its results join those of the run."""
    from sealtune import baseline, report
    from sealtune.job.load import check_files

    check_files(job)
    baseline.run(job, kind.value, run_dir, device=device)
    if (run_dir / "metrics.jsonl").exists():
        from rich.console import Console

        from sealtune.cli.results import show_views

        page = report.write(run_dir)
        show_views(report.build_summary(run_dir), Console(highlight=False))
        typer.echo(f"report: {page}")
