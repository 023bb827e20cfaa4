"""Write a lock anew: the Debian packages that apt offers today, and wheels of the versions that are
installed here, with which sealtune was tested.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Literal

from sealtune.errors import StorageError
from sealtune.images.fetch import download, keep, sha256_of
from sealtune.images.lock import PYTHON, Lock, Package
from sealtune.images.programs import PROGRAMS
from sealtune.start import read_program

# 6.7 is the first Linux that gives reports of TDX and SEV-SNP guests (configfs-tsm). Debian's
# kernel for clouds has no 9p, and virtio-fs, which it has, is offered to no SEV-SNP guest.
KERNEL = "linux-image-6.12-amd64"
# Python, and the libraries that it and the wheels load
DEBIAN = (
    f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib",
    "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libssl3",
    "libstdc++6", "libuuid1", "zlib1g",
)  # fmt: skip


def choose(kernel: str = KERNEL, folder: Path | None = None) -> Lock:
    """A new lock; every package is downloaded for its hash.

    Args:
        kernel: a Debian package with a kernel, or one that stands for the newest of its kind.
        folder: of kept packages; default: in the user's cache.

    Raises:
        StorageError: a registry does not have a package.
    """
    concrete = _concrete(kernel)
    packages = [pin("deb", name, "", folder) for name in (*DEBIAN, concrete)]
    listed = {name for one in PROGRAMS.values() for name in read_program(one).packages}
    installed = metadata.packages_distributions()
    wanted = sorted({dist for name in listed for dist in installed.get(name, ())}, key=str.lower)
    packages += [pin("whl", name, metadata.version(name), folder) for name in wanted]
    return Lock(kernel=concrete, packages=tuple(packages))


def _concrete(kernel: str) -> str:
    """The package that holds the kernel, where ``kernel`` stands for the newest."""
    command = ["apt-cache", "depends", "--important", kernel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^  Depends: (linux-image-\S+)$", done.stdout, re.MULTILINE)
    return found[0] if found else kernel


def pin(kind: Literal["deb", "whl"], name: str, version: str, folder: Path | None) -> Package:
    """Download one package, keep it, and return it with its hash.

    Args:
        version: empty for the newest that apt offers.
        folder: of kept packages; default: in the user's cache.

    Raises:
        StorageError: it cannot be had, or is no package.
    """
    modules: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        got = download(kind, name, version, Path(temporary))
        if kind == "deb":
            version = _field(got, "Version")
        else:
            with zipfile.ZipFile(got) as wheel:
                tops = {entry.partition("/")[0] for entry in wheel.namelist()}
            of_code = {top for top in tops if not top.endswith((".dist-info", ".data"))}
            modules = sorted({top.partition(".")[0] for top in of_code})
        package = Package(
            kind=kind, name=name, version=version, sha256=sha256_of(got), modules=tuple(modules)
        )
        keep(got, package, folder)
    return package


def _field(deb: Path, field: str) -> str:
    done = subprocess.run(
        ["dpkg-deb", "--field", str(deb), field], capture_output=True, text=True, check=False
    )
    if done.returncode or not done.stdout.strip():
        raise StorageError(f"dpkg-deb cannot read {deb.name}: {done.stderr.strip()}")
    return done.stdout.strip()
