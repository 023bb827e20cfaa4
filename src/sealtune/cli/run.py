"""``sealtune run``: the whole job on this machine, each trust domain in a process of its own.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealtune.errors import ConfigError, DigestMismatchError, Problem, SealtuneError, StorageError
from sealtune.job.storage import private_files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from rich.console import Console

    from sealtune.job.dsse import Envelope
    from sealtune.job.spec import Job


_RUNS = Path("runs")
_RESOLVED = "job.resolved.json"
_MANIFEST = "job.manifest.json"


class Baseline(StrEnum):
    """A comparison that protects nothing."""

    LOCAL = "local"
    POOLED = "pooled"
    PLAIN_FEDERATED = "plain-federated"


@private_files()
def run(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    runs: Annotated[
        Path, typer.Option("--runs", metavar="DIR", help="Results go to DIR/<name of the job>.")
    ] = _RUNS,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that is there.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove the run that is there and start over.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=1, max=65535, help="Port of the network engine's relay on 127.0.0.1."
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="Manifest signed by every participant [default: throw-away keys sign one].",
        ),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key",
            metavar="FILE",
            help="Private key of an organisation in --manifest; repeat it. Only split jobs need "
            "keys to run: their sites sign who they are.",
        ),
    ] = None,
    baseline: Annotated[
        Baseline | None,
        typer.Option(
            "--baseline",
            help="Run a plain comparison instead: each site alone, all data pooled, or federated "
            "without enclaves and masks.",
        ),
    ] = None,
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
        _baseline(job, baseline, run_dir)
        return
    if key and manifest is None and not resume:
        raise ConfigError(
            "--key",
            [Problem("--manifest", "is needed with --key: the manifest that these keys signed")],
            hint="without --manifest throw-away keys would sign, and these would go unused",
        )
    from sealtune import launch

    envelope = None if manifest is None else _signed(manifest)
    launch.check(run_dir, resume=resume, force=force)
    if port is not None:
        launch.check_port(port)
    if resume:
        majority, keys = _take_up(job, job_file, run_dir, envelope, key or [])
    else:
        majority, keys = _prepare(job, job_file, run_dir, force, envelope, key or [])
    _launch(job, job_file, run_dir, port, majority, keys, resume=resume)


def _prepare(
    job: Job,
    job_file: Path,
    run_dir: Path,
    force: bool,
    given: Envelope | None,
    key_files: Sequence[Path],
) -> tuple[float | None, dict[str, Path]]:
    """Make the folder of a new run; what can be wrong is found before an earlier one is touched.

    Returns:
        Share of the largest class, and the key files of the sites that sign.
    """
    from rich.console import Console

    from sealtune import launch
    from sealtune.cli import signing
    from sealtune.job.load import check_files
    from sealtune.job.manifest import open_manifest
    from sealtune.job.storage import write_atomic

    check_files(job)
    with Console(stderr=True).status("Checking data and model, planning what runs where"):
        from sealtune.model.resolve import resolve

        resolution = resolve(job)
    keys: dict[str, Path] = {}
    if given is not None:
        manifest = open_manifest(given)
        signing.check_resolution(manifest, resolution)
        keys = signing.keys_of_sites(manifest, key_files)
    launch.prepare(run_dir, resume=False, force=force)
    try:
        envelope = given or signing.throw_away(resolution, _own_keys(job, run_dir))
        keys = keys or signing.kept_keys(run_dir, job)
        write_atomic(run_dir / "job.toml", job_file.read_bytes())
        write_atomic(run_dir / _MANIFEST, envelope.encode())
        resolution.write(run_dir / _RESOLVED, envelope)
    except BaseException:
        shutil.rmtree(run_dir, ignore_errors=True)  # nothing has happened yet: leave no trace
        raise
    if given is None:
        words = f"manifest signed with {signing.THROW_AWAY}"
        Console(highlight=False).print(words, style="yellow", soft_wrap=True)
    return resolution.majority_class, keys


def _own_keys(job: Job, run_dir: Path) -> dict[str, Ed25519PrivateKey] | None:
    """Throw-away keys that a split job's sites sign with, kept in the run folder for --resume."""
    from sealtune.cli.signing import KEYS
    from sealtune.job.key_files import load_private, new_key

    if job.job.method != "split":
        return None
    return {site: load_private(new_key(site, run_dir / KEYS)[0]) for site in job.sites.names}


def _signed(path: Path) -> Envelope:
    """The manifest in ``path``, if every participant signed it."""
    from sealtune.attest.policy import parse_policy
    from sealtune.cli.signing import read_envelope
    from sealtune.job.manifest import verify_manifest

    envelope = read_envelope(path)
    parse_policy(verify_manifest(envelope).appraisal)
    return envelope


def _take_up(
    job: Job,
    job_file: Path,
    run_dir: Path,
    given: Envelope | None,
    key_files: Sequence[Path],
) -> tuple[float | None, dict[str, Path]]:
    """Check that the run that is there is this job's; returns what ``_prepare`` does."""
    from sealtune.cli import signing
    from sealtune.job.manifest import job_id
    from sealtune.job.resolved import read_resolved
    from sealtune.report import build_summary

    resolved = read_resolved(run_dir / _RESOLVED)
    if given is not None and job_id(given.payload) != resolved.job_id:
        raise DigestMismatchError(
            f"the run in {run_dir} was started from another manifest",
            hint="leave --manifest out to continue that run, or start over with --force",
        )
    if resolved.job != job:
        raise StorageError(
            f"{job_file} has changed since the run in {run_dir} was started",
            hint="undo the change to continue that run, or start over with --force",
        )
    keys: dict[str, Path] = {}
    if job.job.method == "split":
        kept = signing.kept_keys(run_dir, job)
        keys = kept or signing.keys_of_sites(resolved.manifest, key_files)
    return build_summary(run_dir)["majority_class"], keys


def _launch(
    job: Job,
    job_file: Path,
    run_dir: Path,
    port: int | None,
    majority: float | None,
    keys: Mapping[str, Path],
    *,
    resume: bool,
) -> None:
    """Run, report, and say where things are, however it ended."""
    from rich.console import Console

    from sealtune import launch, report

    console = Console(highlight=False)
    facts = {"majority_class": majority, "job_file": str(job_file)}
    try:
        launch.run(
            run_dir / _RESOLVED,
            run_dir,
            resume=resume,
            port=port,
            console=console,
            facts=facts,
            keys=keys,
        )
    except (SealtuneError, launch.Interrupted) as error:
        with contextlib.suppress(SealtuneError):  # the run's own error is the one to tell
            report.write(run_dir)
        if isinstance(error, launch.Interrupted):
            again = _again(job_file, run_dir)
            console.print(f"stopped; continue with: {again}", soft_wrap=True, markup=False)
            raise typer.Exit(error.exit_code) from error
        raise
    if _is_released(job, run_dir):
        launch.collect_adapter(run_dir, job.sites.names)
    page = report.write(run_dir)
    show_results(report.build_summary(run_dir), run_dir, page, console)


def _is_released(job: Job, run_dir: Path) -> bool:
    """Whether the sites have the adapter: in a split job the manifest decides."""
    from sealtune.cli.signing import read_envelope
    from sealtune.job.manifest import open_manifest

    if job.job.method != "split":
        return True
    return open_manifest(read_envelope(run_dir / _MANIFEST)).release == "participants"


def _again(job_file: Path, run_dir: Path) -> str:
    """The command that continues this run."""
    command = ["sealtune", "run", str(job_file)]
    if run_dir.parent != _RUNS:
        command += ["--runs", str(run_dir.parent)]
    return shlex.join([*command, "--resume"])


def _baseline(job: Job, kind: Baseline, run_dir: Path) -> None:
    """Run a comparison; its results join those of the run."""
    from sealtune import baseline, report
    from sealtune.job.load import check_files

    check_files(job)
    baseline.run(job, kind.value, run_dir)
    if (run_dir / "metrics.jsonl").exists():
        typer.echo(f"report: {report.write(run_dir)}")


def show_results(summary: Mapping[str, Any], run_dir: Path, page: Path, console: Console) -> None:
    """Print what came out of a run: figures, files, and whether it was confidential.

    Args:
        summary: as in ``summary.json``.
        run_dir: the run's folder.
        page: the report.
        console: where.
    """
    from rich.table import Table
    from rich.text import Text

    from sealtune.cli.signing import KEYS

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for heading in (f"{summary['metric']} before", "after", "test rows", "training examples"):
        table.add_column(heading, justify="right")
    for name, site in summary["per_site"].items():
        table.add_row(
            Text(name),
            _percent(site["accuracy_before"]),
            _percent(site["accuracy_after"]),
            _count(site["test_rows"]),
            _count(site["examples"]),
        )
    table.add_row(
        Text("all sites", style="bold"),
        _percent(summary["accuracy_before"]),
        Text(_percent(summary["accuracy_after"]), style="bold"),
        _count(summary["test_rows_after"]),
        "",
    )
    if summary["majority_class"] is not None:
        guess = _percent(summary["majority_class"])
        table.add_row(Text("always the largest class", style="dim"), "", guess, "", "")
    console.print()
    console.print(table)
    console.print()
    _show_costs(summary, console)
    for name, path in (("adapter", run_dir / "adapter"), ("report", page)):
        if path.exists():
            console.print(Text.assemble((f"{name:8}", "dim"), str(path)), soft_wrap=True)
    if summary["method"] == "split" and summary["split"]["release"] == "never":
        signed = "" if (run_dir / KEYS).is_dir() else " --key ORG.key"
        words = f"kept in the server enclave: sealtune predict --run {run_dir}{signed} --text ..."
        console.print(Text.assemble(("adapter ", "dim"), words), soft_wrap=True)
    console.print()
    if summary["confidential"] is not True:
        kinds = " and ".join(summary["evidence"]) or "no"
        who = "server enclave" if summary["method"] == "split" else "enclaves"
        words = f"NOT CONFIDENTIAL: the {who} showed {kinds} evidence, which protects nothing."
        console.print(Text(words, style="bold red"), soft_wrap=True)


def _show_costs(summary: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    one_method_only = ("accelerator", "pads", "server")
    parts = {
        name: summary["shares"][name]
        for name in ("enclave", *one_method_only, "network", "waiting", "other")
        if summary["shares"][name]
        or (summary["shares"][name] is not None and name not in one_method_only)
    }
    if summary["method"] == "split":
        parts = {"sites" if name == "enclave" else name: share for name, share in parts.items()}
    shares = ", ".join(f"{name} {_percent(share, 0)}" for name, share in parts.items())
    total = summary["seconds"]["total"]
    took = "" if total is None else f"{total:.0f} s"
    console.print(Text.assemble(("time    ", "dim"), f"{took}  {shares}"), soft_wrap=True)


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"
