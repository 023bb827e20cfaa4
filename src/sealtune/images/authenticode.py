"""The digest of a PE image that UEFI firmware measures: without what a signature would change.

Source: Microsoft, "Windows Authenticode Portable Executable Signature Format", "Calculating the
PE Image Hash"; edk2 ``MeasurePeImageAndExtend``. Linux kernels are PE images for their EFI stub.

Trust domain: operator (untrusted), and whoever compares.
"""

from __future__ import annotations

import hashlib
import struct

from sealtune.errors import ConfigError, Problem

_AT_PE, _AT_OPTIONAL = 0x3C, 24  # of the file; of the PE header
_AT_HEADERS, _AT_CHECKSUM = 60, 64  # of the optional header
_DIRECTORIES = {0x10B: 96, 0x20B: 112}  # magic -> offset of the data directories
_SECURITY = 4  # number of the directory that points to the signature
_SECTION = 40  # bytes of a section's header
_MAX_SECTIONS = 96  # what Windows loads


def authenticode(data: bytes, algorithm: str = "sha384") -> bytes:
    """The digest of a PE image.

    Raises:
        ConfigError: not a PE image, or one whose headers point outside it.
    """
    try:
        parts = _hashed_parts(data)
    except (struct.error, KeyError) as error:
        raise _refused(f"is cut short or malformed: {error}") from error
    digest = hashlib.new(algorithm)
    for start, end in parts:
        if not 0 <= start <= end <= len(data):
            raise _refused("has headers that point outside it")
        digest.update(data[start:end])
    return digest.digest()


def _hashed_parts(data: bytes) -> list[tuple[int, int]]:
    """Where in the file, in this order: headers, sections by their place, what follows them."""
    (pe,) = struct.unpack_from("<I", data, _AT_PE)
    if data[:2] != b"MZ" or data[pe : pe + 4] != b"PE\0\0":
        raise _refused("is no PE image: it has no EFI stub")
    sections, optional_size = struct.unpack_from("<2xH12xH", data, pe + 4)
    optional = pe + _AT_OPTIONAL
    (magic,) = struct.unpack_from("<H", data, optional)
    directories = optional + _DIRECTORIES[magic]
    (count,) = struct.unpack_from("<I", data, directories - 4)
    (headers,) = struct.unpack_from("<I", data, optional + _AT_HEADERS)
    checksum = optional + _AT_CHECKSUM
    parts, signature = [(0, checksum)], 0
    if count > _SECURITY:
        entry = directories + 8 * _SECURITY
        (signature,) = struct.unpack_from("<I", data, entry + 4)
        parts += [(checksum + 4, entry), (entry + 8, headers)]
    else:
        parts += [(checksum + 4, headers)]
    if sections > _MAX_SECTIONS:
        raise _refused(f"has {sections} sections")
    table = optional + optional_size
    places = []
    for number in range(sections):
        size, start = struct.unpack_from("<16xII", data, table + number * _SECTION)
        if size:
            places.append((start, start + size))
    parts += sorted(places)
    end = headers + sum(stop - start for start, stop in places)
    if end < len(data):
        parts.append((end, len(data) - signature))
    return parts


def _refused(said: str) -> ConfigError:
    return ConfigError("kernel", [Problem("vmlinuz", said)])
