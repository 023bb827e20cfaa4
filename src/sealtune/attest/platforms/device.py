"""A machine's pseudo files.

Trust domain: every enclave on hardware.
"""

from __future__ import annotations

import os
from pathlib import Path

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import MAX_PART
from sealtune.attest.platforms.base import Need


def write_once(path: Path, data: bytes) -> None:
    """One write call; raise OSError where the file takes only a part."""
    handle = os.open(path, os.O_WRONLY)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(f"{path} took only a part of the data")
    finally:
        os.close(handle)


def read(path: Path) -> bytes:
    """A whole file, up to the largest part that evidence can have."""
    with path.open("rb") as file:
        return file.read(MAX_PART)


def unavailable(what: str, error: Exception) -> AttesterUnavailableError:
    """The error that says why a device did not answer."""
    reason = getattr(error, "strerror", None) or error
    denied = isinstance(error, PermissionError)
    hint = "run as root, or in the group that owns the file" if denied else ""
    return AttesterUnavailableError(f"{what}: {reason}", hint=hint)


def there(root: Path, name: str, remedy: str) -> Need:
    """The need of a file or folder ``name`` below ``root``."""
    return Need(f"/{name}", (root / name).exists(), remedy)
