"""Write the initial file system: a cpio archive ("newc", Linux: early-userspace/buffer-format).

Everything that could differ between two builds is fixed: order by name, time 0, owner 0, and no
compression, whose bytes would depend on the version of a library.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

_FOLDER, _FILE = 0o040000, 0o100000
_END = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file of the initial file system.

    Attributes:
        data: its contents.
        origin: the package that it is from, for the list of contents.
        executable: whether the kernel starts it.
    """

    data: bytes
    origin: str
    executable: bool = False


def write_archive(file: BinaryIO, entries: Mapping[str, Entry], folders: tuple[str, ...]) -> None:
    """Write all files, and the folders that they and ``folders`` need.

    Args:
        entries: path without a leading slash -> file.
        folders: that are to be there besides, empty.
    """
    parents = {str(parent) for path in entries for parent in PurePosixPath(path).parents}
    for number, (path, entry) in enumerate(_sorted(entries, parents | {*folders})):
        if entry is None:
            _write(file, number, path, _FOLDER | 0o755, b"")
        else:
            _write(file, number, path, _FILE | (0o755 if entry.executable else 0o644), entry.data)
    _write(file, 0, _END, 0, b"")


def _sorted(entries: Mapping[str, Entry], folders: set[str]) -> Iterator[tuple[str, Entry | None]]:
    for path in sorted({*entries, *folders} - {"."}):  # a folder comes before what is in it
        yield path, entries.get(path)


def _write(file: BinaryIO, number: int, path: str, mode: int, data: bytes) -> None:
    name = path.encode() + b"\0"
    links = 2 if mode & _FOLDER else 1
    # inode, mode, user, group, links, time, size, device and special device, name's size, checksum
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name
    file.write(head + b"\0" * (-len(head) % 4))
    file.write(data)
    file.write(b"\0" * (-len(data) % 4))
