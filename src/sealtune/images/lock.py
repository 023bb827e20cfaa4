"""Which packages images are made of: each by name, version and hash.

A lock holds the Debian packages of Python, of the libraries it needs and of the kernel, and the
wheels that programs load. Whoever builds from one lock with one version of sealtune gets one image.

Trust domain: operator (untrusted). What a build used stands in the image's own measurement.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealtune.errors import ConfigError, Problem
from sealtune.job.sections import faults
from sealtune.job.storage import read_bounded, write_atomic

PYTHON = "3.11"  # Debian 12's: wheels are chosen for it, whatever runs the build
SHIPPED = Path(__file__).with_name("lock.json")
_MAX_BYTES = 1 << 20
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Package(_Strict):
    """One file that a registry gives out."""

    kind: Literal["deb", "whl"]
    name: str = Field(pattern=_NAME, max_length=200)
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+~:!_-]*$", max_length=200)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    modules: tuple[str, ...] = Field(default=(), strict=False)  # a wheel's, by names for import

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}"


class Lock(_Strict):
    """All packages of all programs; ``kernel`` is the name of one of them."""

    format: Literal[1] = 1
    kernel: str = Field(pattern=_NAME, max_length=200)
    packages: tuple[Package, ...] = Field(strict=False)

    def wheels_of(self, modules: tuple[str, ...]) -> tuple[list[Package], list[str]]:
        """The wheels that hold these modules, and the modules that none holds."""
        wheels = [p for p in self.packages if p.kind == "whl" and set(p.modules) & set(modules)]
        held = {module for wheel in wheels for module in wheel.modules}
        return wheels, [module for module in modules if module not in held]

    def write(self, path: Path) -> None:
        """Write it as people can compare it."""
        write_atomic(path, self.model_dump_json(indent=1).encode() + b"\n")


def read_lock(path: Path = SHIPPED) -> Lock:
    """Read a lock file; default: the one that comes with sealtune.

    Raises:
        ConfigError: it cannot be read, or has faults; all are listed.
    """

    def refused(said: str) -> ConfigError:
        return ConfigError(str(path), [Problem("file", said)])

    data = read_bounded(path, _MAX_BYTES, refused)
    try:
        lock = Lock.model_validate_json(data)
    except ValidationError as error:
        raise ConfigError(str(path), faults(error)) from error
    if sum(p.name == lock.kernel and p.kind == "deb" for p in lock.packages) != 1:
        raise ConfigError(
            str(path), [Problem("kernel", f"{lock.kernel} is not among the packages")]
        )
    return lock
