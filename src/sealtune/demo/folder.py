"""Folders that sealtune makes: whole or absent, and recognised when they are already there.

A marker ``sealtune.json`` records what the folder was made from and the SHA-256 of each file.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from sealtune.errors import StorageError
from sealtune.job.storage import storage_error, write_atomic

MARKER = "sealtune.json"


def make_folder(out: Path, made_from: str, build: Callable[[Path], None]) -> bool:
    """Let ``build`` fill a temporary folder beside ``out`` and rename it into place.

    Args:
        made_from: source, version and recipe; another value makes the folder anew.
        build: writes files into the folder that it is given.

    Returns:
        False if ``out`` was complete already, True if it was made.

    Raises:
        StorageError: ``out`` holds other files, or cannot be written.
    """
    out = Path(os.path.abspath(out))
    if is_complete(out, made_from):
        return False
    try:
        _check_free(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.parent / f".{out.name}.{secrets.token_hex(6)}.part"
        part.mkdir()
        try:
            build(part)
            _write_marker(part, made_from)
            _swap_in(part, out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise storage_error(out, error) from error
    return True


def is_complete(folder: Path, made_from: str) -> bool:
    """Whether ``folder`` was made from ``made_from`` and every file still has its digest."""
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        files = dict(marker["files"])
        return (
            marker["made_from"] == made_from
            and bool(files)
            and all(file_digest(folder / name) == digest for name, digest in files.items())
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_marker(folder: Path, made_from: str) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    marker = {
        "format": 1,
        "made_from": made_from,
        "files": {str(p.relative_to(folder)): file_digest(p) for p in files},
    }
    for path in files:
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_atomic(folder / MARKER, json.dumps(marker, indent=2).encode() + b"\n")


def _check_free(out: Path) -> None:
    """Refuse to replace anything that sealtune did not make."""
    if not out.exists():
        return
    if not out.is_dir():
        raise StorageError(f"{out} is a file, a folder is to be made there", hint="choose --out")
    if any(out.iterdir()) and not (out / MARKER).is_file():
        raise StorageError(
            f"{out} already holds files that sealtune did not make",
            hint="choose another folder with --out, or move them away",
        )


def _swap_in(part: Path, out: Path) -> None:
    old = out.parent / f"{part.name}.old"
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            with contextlib.suppress(OSError):
                old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
