"""Images, kernels and firmware of a few bytes, laid out as the real ones."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from pathlib import Path

from sealtune.images.fetch import sha256_of
from sealtune.images.image import BOOTED, LIST, Content, Contents, Image, digest_of
from sealtune.images.lock import Package

CMDLINE = "console=ttyS0 panic=-1"
PAGE = 4096
# What edk2's AmdSevX64.dsc of 2024 reserves: address, bytes, type of each section.
AMDSEV = (
    (0x800000, 0x9000, 1),
    (0x80A000, 0x3000, 1),
    (0x80D000, 0x1000, 2),
    (0x80E000, 0x1000, 3),
    (0x80F000, 0x1000, 4),
    (0x810000, 0x1000, 0x10),
    (0x811000, 0xF000, 1),
)
RESET, HASHES = 0x80B004, 0x810C00
PACKAGES = (
    Package(kind="deb", name="libc6", version="2.36-9+deb12u14", sha256="ab" * 32),
    Package(kind="whl", name="numpy", version="2.4.0", sha256="cd" * 32, modules=("numpy",)),
)


def image(
    folder: Path,
    *,
    kernel: bytes | None = None,
    initrd: bytes = b"initrd",
    cmdline: str = CMDLINE,
    program: str = "aggregator",
    packages: tuple[Package, ...] = PACKAGES,
) -> Image:
    """A folder with an image of these bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vmlinuz").write_bytes(pe() if kernel is None else kernel)
    (folder / "initrd").write_bytes(initrd)
    (folder / "cmdline").write_text(cmdline)
    booted = {name: sha256_of(folder / name) for name in BOOTED}
    contents = Contents(
        program=program,
        code="12" * 48,
        kernel="6.12.0-made-up",
        booted=booted,  # type: ignore[arg-type]
        digest=digest_of(booted),
        packages=packages,
        absent=("pynvml",),
        files=(Content(path="init", sha256="34" * 32, size=7, origin="init"),),
    )
    (folder / LIST).write_text(contents.model_dump_json())
    return Image(folder, contents)


def pe(sections: Sequence[bytes] = (b"A" * 512, b"B" * 512), *, tail: bytes = b"") -> bytes:
    """A PE32+ image whose sections stand in its table in reverse order; ``tail`` is signed away."""
    headers = bytearray(1024)
    headers[:2] = b"MZ"
    struct.pack_into("<I", headers, 0x3C, 0x80)
    headers[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HH12xHH", headers, 0x84, 0x8664, len(sections), 240, 0x206)
    struct.pack_into("<H", headers, 0x98, 0x20B)
    struct.pack_into("<I", headers, 0x98 + 60, len(headers))
    struct.pack_into("<I", headers, 0x98 + 64, 0x12345678)  # checksum
    struct.pack_into("<I", headers, 0x98 + 108, 16)
    start = len(headers)
    for number, section in enumerate(sections):
        at = 0x98 + 240 + 40 * (len(sections) - 1 - number)
        struct.pack_into("<8s8xII", headers, at, b".made-up", len(section), start)
        start += len(section)
    struct.pack_into("<II", headers, 0x98 + 112 + 32, start if tail else 0, len(tail))
    return bytes(headers) + b"".join(sections) + tail


def firmware(
    sections: Sequence[tuple[int, int, int]] = AMDSEV,
    *,
    pages: int = 1,
    hashes: int = HASHES,
    filler: bytes = b"\xff",
) -> bytes:
    """Firmware with edk2's table of what the host must know of it, at its end."""
    metadata = struct.pack("<4sIII", b"ASEV", 16 + 12 * len(sections), 1, len(sections))
    metadata += b"".join(struct.pack("<III", *section) for section in sections)
    page = bytearray(filler * (PAGE * pages))
    place = len(page) - PAGE + 0x100
    page[place : place + len(metadata)] = metadata
    table = b"".join(
        data + struct.pack("<H", len(data) + 18) + uuid.UUID(guid).bytes_le
        for guid, data in (
            ("dc886566-984a-4798-a75e-5585a7bf67cc", struct.pack("<I", len(page) - place)),
            ("7255371f-3a3b-4b04-927b-1da6efa8d454", struct.pack("<II", hashes, 0x400)),
            ("00f771de-1a7e-4fcb-890e-68c77e2fb44e", struct.pack("<I", RESET)),
        )
    )
    table += struct.pack("<H", len(table) + 18)
    table += uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    page[-32 - len(table) : -32] = table
    return bytes(page)
