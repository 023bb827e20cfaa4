"""The kernel of an image, and the modules that a virtual machine of ours needs, in their order.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from sealtune.errors import StorageError
from sealtune.images.archive import Entry

# network card, the host's folders, and what gives reports of SEV-SNP and TDX guests
WANTED = ("virtio_net", "9pnet_virtio", "9p", "sev-guest", "tdx-guest")
_COMPRESSED = ".ko.xz"


@dataclass(frozen=True)
class Kernel:
    """A kernel, and modules in the order in which they load.

    Attributes:
        image: what a boot loader starts.
        release: its name for itself, such as ``6.12.1-cloud-amd64``.
        modules: file name -> module.
    """

    image: bytes
    release: str
    modules: Mapping[str, Entry]


def take_kernel(files: Mapping[str, bytes], origin: str) -> Kernel:
    """Find both among a kernel package's files, as they lie in it.

    Raises:
        StorageError: the package has no kernel, or lacks a module.
    """
    images = [path for path in files if path.startswith("boot/vmlinuz-")]
    if len(images) != 1:
        raise StorageError(f"{origin} holds {len(images)} kernels, not one")
    found = {_name(path): path for path in files if ".ko" in path}
    modules: dict[str, Entry] = {}

    def load(name: str) -> None:
        if name in modules:
            return
        if name not in found:
            raise StorageError(f"{origin} has no module {name}")
        data = _unpacked(found[name], files[found[name]])  # a few of thousands
        for other in _depends(data):
            load(other)
        modules[name] = Entry(data, origin)

    for name in WANTED:
        load(_normal(name))
    release = images[0].removeprefix("boot/vmlinuz-")
    return Kernel(files[images[0]], release, {f"{n}.ko": entry for n, entry in modules.items()})


def is_wanted(path: str) -> bool:
    """Whether a file of a kernel package can be of use."""
    return path.startswith("boot/vmlinuz-") or path.endswith((".ko", _COMPRESSED))


def _unpacked(path: str, data: bytes) -> bytes:
    """A module as the kernel loads it."""
    return lzma.decompress(data) if path.endswith(_COMPRESSED) else data


def _name(path: str) -> str:
    return _normal(PurePosixPath(path).name.partition(".")[0])


def _normal(name: str) -> str:
    return name.replace("-", "_")


def _depends(module: bytes) -> list[str]:
    """What a module says that it needs, in its section ``.modinfo``."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [_normal(name) for name in found[1].decode().split(",") if name] if found else []
