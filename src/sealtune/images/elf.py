"""Which libraries a file of machine code asks for, by the System V ABI (ELF, chapter 5).

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import struct

from sealtune.errors import StorageError

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2  # kinds of segments
_NEEDED, _STRINGS = 1, 5  # kinds of dynamic entries


def needed(data: bytes) -> list[str]:
    """Names of the libraries that the loader must find first; none for what is no ELF file.

    Raises:
        StorageError: it is not for 64 bits, little-endian, or it is cut short.
    """
    if not data.startswith(b"\x7fELF"):
        return []
    if data[4:6] != b"\x02\x01":
        raise StorageError("machine code of another kind of processor: 64 bits are needed")
    try:
        return _needed(data)
    except (struct.error, ValueError) as error:
        raise StorageError(f"machine code is cut short or malformed: {error}") from error


def _needed(data: bytes) -> list[str]:
    _, _, _, _, at, _, _, _, size, count, *_ = _HEADER.unpack_from(data)
    segments = [_SEGMENT.unpack_from(data, at + size * index) for index in range(count)]
    entries: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length, _, _ in segments:
        if kind == _DYNAMIC:
            entries += _ENTRY.iter_unpack(data[offset : offset + length])
    strings = next((value for tag, value in entries if tag == _STRINGS), 0)
    for kind, _, offset, address, _, length, _, _ in segments:
        if kind == _LOAD and address <= strings < address + length:
            strings += offset - address
            break
    starts = [strings + value for tag, value in entries if tag == _NEEDED]
    return [data[start : data.index(b"\0", start)].decode("ascii") for start in starts]
