"""The run folder: made, continued, or started over; never somebody else's.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sealtune.errors import StorageError
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import job_id
from sealtune.launch.metrics import lock, storage_error

_KEPT = {"baselines"}  # may be there before the run
MANIFEST = "job.manifest.json"
_MARKS = ("metrics.jsonl", MANIFEST)  # what only a run of ours has


def check(run_dir: Path, *, resume: bool, force: bool) -> None:
    """Make sure that ``prepare`` could do its work, and change nothing.

    Args:
        run_dir: the folder.
        resume: go on with the run that is there.
        force: remove the run that is there.

    Raises:
        StorageError: there is a run and neither is asked for, there is none to resume, or the
            folder is not a run's.
    """
    if resume and force:
        raise StorageError("--resume and --force exclude each other")
    ours = run_dir.is_dir() and any((run_dir / mark).is_file() for mark in _MARKS)
    if resume:
        if not ours:
            raise StorageError(
                f"there is no run to resume in {run_dir}", hint="leave --resume out to start one"
            )
        return
    if _free(run_dir):
        return
    if not ours:
        raise StorageError(
            f"{run_dir} exists and is not a run of sealtune",
            hint="choose another job name or another --runs folder; it is left as it is",
        )
    if not force:
        raise StorageError(
            f"{run_dir} holds a run already",
            hint="--resume to continue it, --force to remove it and start over",
        )


def prepare(run_dir: Path, *, force: bool) -> None:
    """Make the folder of a new run ready: create it, or empty it (``force``).

    Raises:
        StorageError: see ``check``; or it cannot be written.
    """
    check(run_dir, resume=False, force=force)
    if not _free(run_dir):
        check_idle(run_dir)
        _remove(run_dir)
    try:
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(run_dir, error) from error


def remove_activations(run_dir: Path) -> tuple[int, int]:
    """Remove a split job's sealed samples; everything else stays.

    Returns:
        how many files, and their bytes.

    Raises:
        StorageError: one cannot be removed, or a run is going on.
    """
    check_idle(run_dir)
    folder = run_dir / "state" / "activations"
    if folder.is_symlink():
        raise StorageError(f"{folder} is a link: it is left as it is")
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    if folder.is_dir():
        _remove(folder)
    return len(files), size


def check_folder(folder: Path, envelope: Envelope) -> None:
    """Raise StorageError if a party's folder is that of another job."""
    kept = folder / MANIFEST
    if kept.is_file() and job_id(Envelope.read(kept).payload) != job_id(envelope.payload):
        raise StorageError(
            f"{folder} holds another job",
            hint="give each job a `folder` of its own in the local file",
        )


def check_idle(run_dir: Path) -> None:
    """Raise StorageError if a run is going on in the folder."""
    path = run_dir / "metrics.jsonl"
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        lock(descriptor, path)
    finally:
        os.close(descriptor)


def _free(run_dir: Path) -> bool:
    if not (run_dir.is_symlink() or run_dir.exists()):
        return True
    return run_dir.is_dir() and {path.name for path in run_dir.iterdir()} <= _KEPT


def _remove(run_dir: Path) -> None:
    try:
        if run_dir.is_symlink():
            run_dir.unlink()
        else:
            shutil.rmtree(run_dir)
    except OSError as error:
        raise storage_error(run_dir, error) from error
