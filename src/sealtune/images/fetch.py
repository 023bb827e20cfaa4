"""Get packages by name and version from the registries that pip and apt are set up for, and keep
them by hash: what is used has the hash of the lock, whoever gave it out.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sealtune.errors import DigestMismatchError, StorageError
from sealtune.images.lock import PYTHON, Package
from sealtune.job.cache import cache_folder
from sealtune.job.storage import storage_error

# Python's own names for the oldest C library that a wheel runs with; Debian 12 has 2.36
_PLATFORMS = (
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_27",
    "manylinux_2_28",
    "manylinux_2_34",
)


def fetch(package: Package, folder: Path | None = None) -> Path:
    """The package's file, from the cache or from its registry.

    Args:
        folder: of kept packages; default: in the user's cache.

    Raises:
        DigestMismatchError: what was kept, or what the registry gave out, is another file.
        StorageError: it cannot be had.
    """
    path = _place(package, folder)
    if path.is_file():
        _check(package, path, "was changed: delete it")
        return path
    with tempfile.TemporaryDirectory() as temporary:
        got = download(package.kind, package.name, package.version, Path(temporary))
        _check(package, got, "is not what the lock names: compare, or write a new lock")
        return keep(got, package, folder)


def keep(file: Path, package: Package, folder: Path | None = None) -> Path:
    """Copy a package's file to where `fetch` finds it."""
    path = _place(package, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(file, part)
        part.replace(path)
    except OSError as error:
        raise storage_error(path, error) from error
    return path


def _place(package: Package, folder: Path | None) -> Path:
    return (folder or cache_folder() / "packages") / f"{package.sha256}.{package.kind}"


def download(kind: str, name: str, version: str, folder: Path) -> Path:
    """Download one package into an empty folder; an empty version is the newest that apt offers.

    Raises:
        StorageError: the registry does not have it, or cannot be reached.
    """
    if kind == "deb":
        wanted = f"{name}={version}" if version else name
        _ask(["apt-get", "-o", "APT::Sandbox::User=root", "download", wanted], folder, wanted)
    else:
        wanted = f"{name}=={version}"
        platforms = [f"--platform={platform}_x86_64" for platform in _PLATFORMS]
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        which = [f"--python-version={PYTHON}", "--implementation=cp", *platforms]
        _ask([*pip, *which, "--dest", str(folder), wanted], folder, wanted)
    files = list(folder.iterdir())
    if len(files) != 1:
        raise StorageError(f"{wanted} came as {len(files)} files, not as one")
    return files[0]


def sha256_of(path: Path) -> str:
    """Hash of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(package: Package, path: Path, otherwise: str) -> None:
    found = sha256_of(path)
    if found != package.sha256:
        raise DigestMismatchError(
            f"{package.label} in {path} has SHA-256 {found}, the lock says {package.sha256}",
            hint=f"the file {otherwise}",
        )


def _ask(command: Sequence[str], folder: Path, wanted: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=1800
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StorageError(
            f"cannot download {wanted}: {error}",
            hint="packages are fetched with apt-get (Debian) and pip; both must be here",
        ) from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise StorageError(
            f"cannot download {wanted}: {''.join(last)}",
            hint="apt-get update; Debian keeps versions that it replaced in its snapshot archive, "
            "to which apt can be pointed. `sealtune image lock` names what is offered today",
        )
