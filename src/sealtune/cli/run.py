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
from typing import TYPE_CHECKING, Annotated

import typer

from sealtune.errors import ConfigError, DigestMismatchError, Problem, SealtuneError, StorageError
from sealtune.job.private import private_files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from sealtune.job.dsse import Envelope
    from sealtune.job.local import Local
    from sealtune.job.manifest import Manifest
    from sealtune.job.spec import Job


_RUNS = Path("runs")
_JOB = "job.toml"  # in a run's folder: the job file that it was started with


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
            help="Private key of an organisation in --manifest; repeat it. Only jobs whose "
            "sites sign who they are need keys to run: split ones, secure aggregation.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            metavar="PARTY=DIR",
            help="Boot an image for `server` or a site, in place of its process; repeat it.",
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
    images = _images(job, image or [])
    if resume:
        parties, majority = _take_up(job, job_file, run_dir, envelope, key or [], images)
    else:
        parties, majority = _prepare(job, job_file, run_dir, force, envelope, key or [], images)
    _launch(parties, job_file, run_dir, port, majority)


def _images(job: Job, given: Sequence[str]) -> dict[str, Path]:
    """Party -> folder of its image.

    Raises:
        ConfigError: there is no such party, or its folder holds no image.
    """
    from sealtune.images.image import LIST

    images, problems = dict[str, Path](), list[Problem]()
    parties = ("server", *job.sites.names)
    for one in given:
        name, _, folder = one.partition("=")
        if name not in parties:
            problems.append(Problem(one, f"there is no {name!r}, but {', '.join(parties)}"))
        elif not (Path(folder) / LIST).is_file():
            problems.append(Problem(one, "is no folder of `sealtune image build`"))
        images[name] = Path(folder)
    if problems:
        raise ConfigError("--image", problems)
    return images


def _prepare(
    job: Job,
    job_file: Path,
    run_dir: Path,
    force: bool,
    given: Envelope | None,
    key_files: Sequence[Path],
    images: Mapping[str, Path],
) -> tuple[list[Local], float | None]:
    """Make the folder of a new run; what can be wrong is found before an earlier one is touched.

    Returns:
        The parties' own files, and the share of the largest class.
    """
    from rich.console import Console

    from sealtune import launch
    from sealtune.cli import signing
    from sealtune.job.load import check_files
    from sealtune.job.manifest import open_manifest
    from sealtune.job.storage import write_atomic
    from sealtune.party.found import check_found, check_settings
    from sealtune.party.trust import check_machine

    check_machine(job.protection, *job.job.rules.attested)
    check_files(job)
    keys: dict[str, Path] = {}
    if given is not None:
        manifest = open_manifest(given)
        check_settings(manifest, job.settings)
        keys = signing.keys_of_sites(manifest, key_files)
    with Console(stderr=True).status("Checking data and model, planning what runs where"):
        from sealtune.plan.resolve import resolve

        resolution = resolve(job)
    if given is not None:
        check_found(manifest, resolution.found)
        signing.check_jobs(given, keys)
    launch.prepare(run_dir, force=force)
    try:
        envelope = given or signing.throw_away(resolution, _own_keys(job, run_dir))
        keys = keys or signing.kept_keys(run_dir, job)
        write_atomic(run_dir / _JOB, job_file.read_bytes())
        write_atomic(run_dir / launch.MANIFEST, envelope.encode())
        # who signs with throw-away keys took part in nothing before, and will not again
        history = None if given else run_dir / "jobs"
        parties = launch.line_up(resolution.job, run_dir, keys=keys, history=history, images=images)
        for party in parties:
            launch.write_party(party)
    except BaseException:
        shutil.rmtree(run_dir, ignore_errors=True)  # nothing has happened yet: leave no trace
        raise
    if given is None:
        words = f"manifest signed with {signing.THROW_AWAY}"
        Console(highlight=False).print(words, style="yellow", soft_wrap=True)
    return parties, resolution.majority_class


def _own_keys(job: Job, run_dir: Path) -> dict[str, Ed25519PrivateKey] | None:
    """Throw-away keys that sites need to run with, kept in the run folder for --resume."""
    from sealtune.cli.signing import KEYS, sites_need_keys
    from sealtune.job.key_files import load_private, new_key

    if not sites_need_keys(job.settings):
        return None
    return {site: load_private(new_key(site, run_dir / KEYS)[0]) for site in job.sites.names}


def _signed(path: Path) -> Envelope:
    """The manifest in ``path``, if it may be run here."""
    from sealtune.accounting.terms import check_terms
    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import verify_manifest
    from sealtune.party.admit import check_code
    from sealtune.party.trust import accepted_evidence

    envelope = Envelope.read(path)
    manifest = verify_manifest(envelope)
    accepted_evidence(manifest)
    check_code(manifest)
    check_terms(manifest)
    return envelope


def _take_up(
    job: Job,
    job_file: Path,
    run_dir: Path,
    given: Envelope | None,
    key_files: Sequence[Path],
    images: Mapping[str, Path],
) -> tuple[list[Local], float | None]:
    """Check that the run that is there is this job's; returns what ``_prepare`` does."""
    from sealtune import launch
    from sealtune.cli import signing
    from sealtune.job.manifest import job_id, open_manifest
    from sealtune.party.found import differences
    from sealtune.party.reopening import check_reopening
    from sealtune.report import build_summary

    envelope = _signed(run_dir / launch.MANIFEST)
    manifest = open_manifest(envelope)
    check_reopening(manifest.settings.protection)
    if manifest.plan.personal:
        check_reopening(manifest.settings.protection, "site")
    if given is not None and job_id(given.payload) != job_id(envelope.payload):
        raise DigestMismatchError(
            f"the run in {run_dir} was started from another manifest",
            hint="leave --manifest out to continue that run, or start over with --force",
        )
    changed = bool(differences(manifest.settings, job.settings))
    if changed:
        _check_kept(run_dir, manifest)
    keys = signing.kept_keys(run_dir, job) or signing.keys_of_sites(manifest, key_files)
    if not changed:
        before = [_kept_site(run_dir, site) for site in job.sites.names]
        model = before[0].model
        if model is not None and job.model.revision is None:  # a hub's model at its commit
            at_commit = job.model.model_copy(update={"revision": model.revision})
            job = job.model_copy(update={"model": at_commit})
        history = before[0].history
        parties = launch.line_up(
            job, run_dir, keys=keys, history=history, resume=True, images=images
        )
        places = [(party.model, party.data) for party in parties if party.role == "site"]
        changed = places != [(party.model, party.data) for party in before]
    if changed:
        raise StorageError(
            f"{job_file} has changed since the run in {run_dir} was started",
            hint="undo the change to continue that run, or start over with --force",
        )
    return parties, build_summary(run_dir)["majority_class"]


def _check_kept(run_dir: Path, manifest: Manifest) -> None:
    """Raise DigestMismatchError if a run folder's manifest is not of the job file kept beside it;
    a job file that cannot be read tells nothing.
    """
    from sealtune.job.load import load_job
    from sealtune.launch import MANIFEST
    from sealtune.party.found import differences

    with contextlib.suppress(ConfigError):
        if other := differences(manifest.settings, load_job(run_dir / _JOB).settings):
            raise DigestMismatchError(
                f"{run_dir / MANIFEST} is not the manifest that this run was started with: "
                f"{run_dir / _JOB} beside it has other {', '.join(other)}",
                hint="put the run's own manifest back to continue it, or start over with --force",
            )


def _kept_site(run_dir: Path, site: str) -> Local:
    """A site's own file, as the run in ``run_dir`` was started with it."""
    from sealtune.job.local import read_local
    from sealtune.launch import party_file

    file = party_file(run_dir, f"site-{site}")
    try:
        return read_local(file)
    except ConfigError as error:
        raise ConfigError(
            str(file),
            error.problems,
            hint="the run cannot go on without this file of its own: put it back from a copy, or "
            "start over with --force",
        ) from error


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


def _baseline(job: Job, kind: Baseline, run_dir: Path) -> None:
    """Run a comparison; its results join those of the run."""
    from sealtune import baseline, report
    from sealtune.job.load import check_files

    check_files(job)
    baseline.run(job, kind.value, run_dir)
    if (run_dir / "metrics.jsonl").exists():
        from rich.console import Console

        from sealtune.cli.results import show_views

        page = report.write(run_dir)
        show_views(report.build_summary(run_dir), Console(highlight=False))
        typer.echo(f"report: {page}")
