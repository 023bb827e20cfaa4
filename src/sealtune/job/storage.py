"""Write files so that a reader sees the old contents or the new, never a half; read no endless one;
let one process at a time change one.

Trust domain: every process that reads or writes files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from sealtune.errors import SealtuneError, StorageError


def read_bounded(path: Path, limit: int, failure: Callable[[str], SealtuneError]) -> bytes:
    """The contents of a file of at most ``limit`` bytes.

    Raises:
        SealtuneError: what ``failure`` makes of the words for it: "cannot be read: …".
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise failure(f"cannot be read: {reason(error)}") from error
    if len(data) > limit:
        raise failure(f"is too long: at most {limit} bytes are allowed")
    return data


def reason(error: OSError) -> str:
    """What the system says, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; see ``replacing``."""
    with replacing(path) as part:
        part.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, which takes its place after the block: fsync, rename,
    fsync of the folder.

    Raises:
        StorageError: no space, no permission, or a folder in the way; nothing is left behind.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(6)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _sync_folder(folder: Path) -> None:
    """So that the new name outlives a loss of power, too."""
    with contextlib.suppress(OSError):  # some file systems cannot
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that changes ``path``: a lock file beside it, until the block ends.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def storage_error(path: Path, error: Exception) -> StorageError:
    """The StorageError that says what ``error`` (an OSError, or a library's own) means."""
    reason = str(getattr(error, "strerror", None) or error).lower()
    return StorageError(
        f"cannot write {path}: {reason}",
        hint="free some space, check the permissions, or choose another place",
    )
