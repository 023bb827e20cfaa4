"""The folder of a run on this machine: made for a new one, or taken up again.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.errors import ConfigError, DigestMismatchError, Problem, StorageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from sealtune.job.compute_rules import Device
    from sealtune.job.dsse import Envelope
    from sealtune.job.local import Local
    from sealtune.job.manifest import Manifest
    from sealtune.job.spec import Job

_JOB = "job.toml"  # in a run's folder: the job file that it was started with


def prepare(
    job: Job,
    job_file: Path,
    run_dir: Path,
    force: bool,
    given: Envelope | None,
    key_files: Sequence[Path],
    images: Mapping[str, Path],
    device: Device | None = None,
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
    _check_device(job, device)
    check_files(job)
    keys: dict[str, Path] = {}
    if given is not None:
        manifest = open_manifest(given)
        check_settings(manifest, job.settings)
        if manifest.pad_accelerators:
            words = "names pad accelerators, and accelerators that others run: not this machine"
            raise ConfigError(
                "--manifest",
                [Problem("pad_accelerators", words)],
                hint="each party starts its own: `sealtune site`, `sealtune pad-accelerator`, …",
            )
        keys = signing.keys_of_sites(manifest, key_files)
    with Console(stderr=True).status("Checking data and model, planning what runs where"):
        from sealtune.plan.resolve import resolve

        resolution = resolve(job)
    if given is not None:
        check_found(manifest, resolution.found)
        signing.check_jobs(given, keys)
    launch.prepare(run_dir, force=force)
    try:
        pad_key = run_dir / launch.PAD_KEY
        envelope = given or signing.throw_away(resolution, _own_keys(job, run_dir), pad_key)
        keys = keys or signing.kept_keys(run_dir, job)
        write_atomic(run_dir / _JOB, job_file.read_bytes())
        write_atomic(run_dir / launch.MANIFEST, envelope.encode())
        # who signs with throw-away keys took part in nothing before, and will not again
        history = None if given else run_dir / "jobs"
        parties = launch.line_up(
            resolution.job, run_dir, keys=keys, history=history, images=images, device=device
        )
        for party in parties:
            launch.write_party(party)
    except BaseException:
        shutil.rmtree(run_dir, ignore_errors=True)  # nothing has happened yet: leave no trace
        raise
    if given is None:
        words = f"manifest signed with {signing.THROW_AWAY}"
        if job.protection.pads == "second-accelerator":
            words += "; accelerator and pad accelerator are SIMULATED: one operator runs both"
        Console(highlight=False).print(words, style="yellow", soft_wrap=True)
    return parties, resolution.majority_class


def _check_device(job: Job, device: Device | None) -> None:
    """Whether the job may compute there, and this machine has what it takes."""
    from sealtune.job.compute_rules import device_of

    if device_of(job, job.job.rules.trains, device) == "cuda":
        from sealtune.model.compute import check_cuda

        check_cuda()


def _own_keys(job: Job, run_dir: Path) -> dict[str, Ed25519PrivateKey] | None:
    """Throw-away keys that sites need to run with, kept in the run folder for --resume."""
    from sealtune.cli.signing import KEYS, sites_need_keys
    from sealtune.job.key_files import load_private, new_key

    if not sites_need_keys(job.settings):
        return None
    return {site: load_private(new_key(site, run_dir / KEYS)[0]) for site in job.sites.names}


def signed_manifest(path: Path) -> Envelope:
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


def take_up(
    job: Job,
    job_file: Path,
    run_dir: Path,
    given: Envelope | None,
    key_files: Sequence[Path],
    images: Mapping[str, Path],
    device: Device | None = None,
) -> tuple[list[Local], float | None]:
    """Check that the run that is there is this job's; returns what ``prepare`` does."""
    from sealtune import launch
    from sealtune.cli import signing
    from sealtune.job.manifest import job_id, open_manifest
    from sealtune.party.found import differences
    from sealtune.party.reopening import check_reopening
    from sealtune.report import build_summary

    envelope = signed_manifest(run_dir / launch.MANIFEST)
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
        before = [_kept(run_dir, f"site-{site}") for site in job.sites.names]
        model = before[0].model
        if model is not None and job.model.revision is None:  # a hub's model at its commit
            at_commit = job.model.model_copy(update={"revision": model.revision})
            job = job.model_copy(update={"model": at_commit})
        history = before[0].history
        trains = _kept(run_dir, "server") if job.job.rules.server_trains else before[0]
        device = device or trains.device
        _check_device(job, device)
        parties = launch.line_up(
            job, run_dir, keys=keys, history=history, resume=True, images=images, device=device
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


def _kept(run_dir: Path, name: str) -> Local:
    """A party's own file, as the run in ``run_dir`` was started with it."""
    from sealtune.job.local import read_local
    from sealtune.launch import party_file

    file = party_file(run_dir, name)
    try:
        return read_local(file)
    except ConfigError as error:
        raise ConfigError(
            str(file),
            error.problems,
            hint="the run cannot go on without this file of its own: put it back from a copy, or "
            "start over with --force",
        ) from error


def images_of(job: Job, given: Sequence[str]) -> dict[str, Path]:
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
