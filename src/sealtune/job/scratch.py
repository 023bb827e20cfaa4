"""Private temporary folders that go with their process, also when it was killed.

Each holds a lock as long as its process lives; ``sweep`` removes this user's folders whose lock is
free: what a kill -9 or a power cut left behind. A folder without such a lock is somebody's own,
whatever its name.

Trust domain: every process that keeps temporary files.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sealtune.job.storage import storage_error

PREFIX = "sealtune-"
_LOCK = ".sealtune-scratch"  # no other program makes such a file
_SHORT = 40  # bytes of the base folder's path: a socket's path below may have 107
_YOUNG = 60.0  # seconds in which a lock that was made may not be held yet
_held: dict[Path, int] = {}  # folders of this process, and the descriptors of their locks


def make_scratch() -> Path:
    """A new folder, mode 0700, under the system's temporary folder.

    Raises:
        StorageError: it cannot be made.
    """
    base = _base()
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = os.open(folder / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise storage_error(base, error) from error
    _held[folder] = lock
    return folder


def remove_scratch(folder: Path) -> None:
    """Remove a folder of ``make_scratch``'s."""
    _remove(folder)
    lock = _held.pop(folder, None)
    if lock is not None:
        os.close(lock)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Such a folder for the time of a block; what killed processes left behind goes first."""
    sweep()
    folder = make_scratch()
    try:
        yield folder
    finally:
        remove_scratch(folder)


def sweep() -> int:
    """Remove folders of this user whose processes are gone; how many."""
    removed = 0
    for folder in _base().glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            removed += folder not in _held and _is_left_over(folder)
    return removed


def _is_left_over(folder: Path) -> bool:
    """Remove ``folder`` if nobody holds its lock."""
    stat = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or stat.st_uid != os.getuid():
        return False
    if os.listdir(folder) == [_LOCK] and time.time() - stat.st_mtime < _YOUNG:
        return False
    lock = os.open(folder / _LOCK, os.O_WRONLY | os.O_NOFOLLOW)  # not there: not a scratch folder
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        _remove(folder)
        return True
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove ``folder``, its lock last: what is left after a kill is still known as left over."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name == _LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _base() -> Path:
    base = tempfile.gettempdir()
    return Path(base if len(base) <= _SHORT else "/tmp")


@atexit.register
def _remove_own() -> None:
    for folder in list(_held):
        remove_scratch(folder)
