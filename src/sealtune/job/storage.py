"""Write files so that a reader sees the old contents or the new, never a half.

Trust domain: every process that writes files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from sealtune.errors import StorageError


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """What is made in the block is readable by this user only: folders 0700, files 0600."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: temporary file beside it, fsync, rename.

    Raises:
        StorageError: no space, no permission, or a folder in the way; nothing is left behind.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(6)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def storage_error(path: Path, error: Exception) -> StorageError:
    """The StorageError that says what ``error`` (an OSError, or a library's own) means."""
    reason = str(getattr(error, "strerror", None) or error).lower()
    return StorageError(
        f"cannot write {path}: {reason}",
        hint="free some space, check the permissions, or choose another place",
    )


def home() -> Path:
    """The user's home folder.

    Raises:
        StorageError: this user has none.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder to keep files in",
            hint="set HOME, or XDG_DATA_HOME and XDG_CACHE_HOME, to a folder of this user",
        ) from error
