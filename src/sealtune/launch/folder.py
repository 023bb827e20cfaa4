"""The run folder: made, continued, or started over; never somebody else's.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sealtune.errors import StorageError
from sealtune.launch.metrics import storage_error

_MARKS = ("metrics.jsonl", "job.resolved.json")  # what only a run of ours has


def prepare(run_dir: Path, *, resume: bool, force: bool) -> bool:
    """Make the folder of a run ready.

    Args:
        run_dir: the folder.
        resume: go on with the run that is there.
        force: remove the run that is there.

    Returns:
        Whether the folder was made by this call.

    Raises:
        StorageError: there is a run and neither is asked for, there is none to resume, the folder
            is not a run's, or it cannot be written.
    """
    if resume and force:
        raise StorageError("--resume and --force exclude each other")
    present = run_dir.is_symlink() or run_dir.exists()
    ours = run_dir.is_dir() and any((run_dir / mark).is_file() for mark in _MARKS)
    empty = run_dir.is_dir() and not any(run_dir.iterdir())
    if resume:
        if not ours:
            raise StorageError(f"there is no run to resume in {run_dir}")
        return False
    if present and not empty:
        if not ours:
            raise StorageError(
                f"{run_dir} exists and is not a run of sealtune",
                hint="choose another name or --runs folder; it is left as it is",
            )
        if not force:
            raise StorageError(
                f"{run_dir} holds a run already",
                hint="--resume to continue it, --force to remove it and start over",
            )
        _remove(run_dir)
    try:
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(run_dir, error) from error
    return True


def _remove(run_dir: Path) -> None:
    try:
        if run_dir.is_symlink():
            run_dir.unlink()
        else:
            shutil.rmtree(run_dir)
    except OSError as error:
        raise storage_error(run_dir, error) from error
