"""A built image: its folder, and the list of what is in it.

    vmlinuz  initrd  cmdline     what is booted, and measured
    image.json                   every file in it by hash, and where that comes from

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealtune.errors import ConfigError, DigestMismatchError, Problem
from sealtune.images.fetch import sha256_of
from sealtune.images.lock import Package
from sealtune.job.sections import faults
from sealtune.job.storage import read_bounded, storage_error

BOOTED = ("vmlinuz", "initrd", "cmdline")
LIST = "image.json"
_MAX_BYTES = 64 << 20
_Sha256 = Field(pattern=r"^[0-9a-f]{64}$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Content(_Strict):
    """One file of the initial file system."""

    path: str
    sha256: str = _Sha256
    size: int
    origin: str = Field(description="name and version of its package; sealtune; or the init")


class Contents(_Strict):
    """``image.json``.

    Attributes:
        program: its name in a manifest's ``code``, such as ``site-enclave``.
        code: the program's digest, as a manifest names it: SHA-384, hex.
        kernel: release of the kernel.
        booted: SHA-256 of the three files that are booted.
        digest: one SHA-256 over them, to compare two builds by.
        packages: what it was made of; the kernel's among them.
        absent: packages that the program could use, and does without here.
        files: what the initial file system holds, by path.
    """

    format: Literal[1] = 1
    program: str
    code: str = Field(pattern=r"^[0-9a-f]{96}$")
    kernel: str
    booted: dict[Literal["vmlinuz", "initrd", "cmdline"], str]
    digest: str = _Sha256
    packages: tuple[Package, ...] = Field(strict=False)
    absent: tuple[str, ...] = Field(strict=False)
    files: tuple[Content, ...] = Field(strict=False)


class Image(NamedTuple):
    """A folder with an image whose three files are those of its list."""

    folder: Path
    contents: Contents

    @property
    def vmlinuz(self) -> Path:
        """The kernel."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initial file system."""
        return self.folder / "initrd"

    @property
    def cmdline(self) -> str:
        """The kernel's command line."""
        return (self.folder / "cmdline").read_text("ascii")

    @classmethod
    def read(cls, folder: Path) -> Image:
        """Read an image's list, and hold the files against it.

        Raises:
            ConfigError: the list is missing or malformed.
            DigestMismatchError: a file is not the one that was built.
            StorageError: a file cannot be read.
        """

        def refused(said: str) -> ConfigError:
            hint = "`sealtune image build` makes the folder of an image"
            return ConfigError(str(folder / LIST), [Problem("file", said)], hint=hint)

        data = read_bounded(folder / LIST, _MAX_BYTES, refused)
        try:
            contents = Contents.model_validate_json(data)
        except ValidationError as error:
            raise ConfigError(str(folder / LIST), faults(error)) from error
        try:
            found = {name: sha256_of(folder / name) for name in BOOTED}
        except OSError as error:
            raise storage_error(Path(error.filename or folder), error) from error
        changed = [name for name in BOOTED if found[name] != contents.booted.get(name)]  # type: ignore[call-overload]
        if not changed and digest_of(found) != contents.digest:
            changed = ["digest"]
        if changed:
            raise DigestMismatchError(
                f"the image in {folder} is not what was built: {', '.join(changed)}",
                hint="build it anew, and compare the digest with the other organisations'",
            )
        return cls(folder, contents)


def digest_of(booted: dict[str, str]) -> str:
    """One digest over the digests of the three files, hex."""
    lines = "".join(f"{booted[name]}  {name}\n" for name in BOOTED)
    return hashlib.sha256(lines.encode()).hexdigest()
