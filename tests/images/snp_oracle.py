"""The SEV-SNP launch digest, worked out page by page and byte by byte, slowly.

From AMD's SEV-SNP Firmware ABI (56860): section "Launch Digest", table PAGE_INFO; the AMD64
Architecture Programmer's Manual, volume 2, table "VMSA layout"; and what QEMU and KVM start a
processor with. Shares nothing with the package that the product uses.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence

ZEROS = bytes(48)
NORMAL, VMSA, ZERO, SECRETS, CPUID = 1, 2, 3, 5, 6
_OF_A_VMSA = 0xFFFFFFFFF000
SIGNATURES = {"EPYC-v4": 0x800F12, "EPYC-Milan": 0xA00F11, "EPYC-Genoa": 0xA10F10}


def launch_digest(
    firmware: bytes | str,
    sections: Sequence[tuple[int, int, int]],
    reset: int,
    hashes_at: int,
    files: tuple[bytes, bytes, str] | None,
    *,
    vcpus: int,
    vcpu_type: str,
    features: int,
) -> str:
    """The digest, hex.

    Args:
        firmware: its bytes, or the digest after its pages, hex.
        sections, reset, hashes_at: what the firmware says of itself.
        files: kernel, initial file system, command line.
    """
    if isinstance(firmware, str):
        digest = bytes.fromhex(firmware)
    else:
        digest = ZEROS
        for start in range(0, len(firmware), 4096):
            page = firmware[start : start + 4096]
            digest = add(digest, NORMAL, 2**32 - len(firmware) + start, page)
    for address, size, kind in sections:
        for page_at in range(address, address + size, 4096):
            if kind == 0x10 and files is not None:
                digest = add(digest, NORMAL, page_at, hashes_page(hashes_at % 4096, *files))
            else:
                what = {1: ZERO, 2: SECRETS, 3: CPUID, 4: ZERO, 0x10: ZERO}[kind]
                digest = add(digest, what, page_at, None)
    for number in range(vcpus):
        starts_at = reset if number else 0xFFFFFFF0
        state = processor(starts_at, SIGNATURES[vcpu_type], features)
        digest = add(digest, VMSA, _OF_A_VMSA, state)
    return digest.hex()


def add(digest: bytes, kind: int, address: int, page: bytes | None) -> bytes:
    """One page more: SHA-384 of PAGE_INFO, 112 bytes."""
    contents = ZEROS if page is None else hashlib.sha384(page).digest()
    info = digest + contents + bytes([112, 0, kind, 0, 0, 0, 0, 0])
    return hashlib.sha384(info + address.to_bytes(8, "little")).digest()


def hashes_page(offset: int, kernel: bytes, initrd: bytes, cmdline: str) -> bytes:
    """The page that QEMU fills where kernel-hashes=on."""
    table = b"".join(
        uuid.UUID(guid).bytes_le + (50).to_bytes(2, "little") + hashlib.sha256(data).digest()
        for guid, data in (
            ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", cmdline.encode() + b"\0"),
            ("44baf731-3a2f-4bd7-9af1-41e29169781d", initrd),
            ("4de79437-abd2-427f-b835-d5b172d2045b", kernel),
        )
    )
    head = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le + (168).to_bytes(2, "little")
    return (bytes(offset) + head + table).ljust(4096, b"\0")


def processor(starts_at: int, signature: int, features: int) -> bytes:
    """A processor's state when it begins, 4096 bytes."""
    page = bytearray(4096)
    for at, size, value in _fields(starts_at, signature, features):
        page[at : at + size] = value.to_bytes(size, "little")
    return bytes(page)


def _fields(starts_at: int, signature: int, features: int) -> Iterator[tuple[int, int, int]]:
    data = (0, 0x93, 0xFFFF, 0)
    yield from _segment(0x00, *data)  # ES
    yield from _segment(0x10, 0xF000, 0x9B, 0xFFFF, starts_at & 0xFFFF0000)  # CS
    for at in (0x20, 0x30, 0x40, 0x50):  # SS, DS, FS, GS
        yield from _segment(at, *data)
    yield from _segment(0x60, 0, 0, 0xFFFF, 0)  # GDTR
    yield from _segment(0x70, 0, 0x82, 0xFFFF, 0)  # LDTR
    yield from _segment(0x80, 0, 0, 0xFFFF, 0)  # IDTR
    yield from _segment(0x90, 0, 0x8B, 0xFFFF, 0)  # TR
    yield 0xD0, 8, 1 << 12  # EFER: SVME
    yield 0x148, 8, 1 << 6  # CR4: MCE
    yield 0x158, 8, 1 << 4  # CR0: ET
    yield 0x160, 8, 0x400  # DR7
    yield 0x168, 8, 0xFFFF0FF0  # DR6
    yield 0x170, 8, 2  # RFLAGS
    yield 0x178, 8, starts_at & 0xFFFF  # RIP
    yield 0x268, 8, 0x0007040600070406  # PAT
    yield 0x310, 8, signature  # RDX
    yield 0x3B0, 8, features  # SEV_FEATURES
    yield 0x3E8, 8, 1  # XCR0
    yield 0x408, 4, 0x1F80  # MXCSR
    yield 0x410, 2, 0x37F  # FCW


def _segment(
    at: int, selector: int, attributes: int, limit: int, base: int
) -> Iterator[tuple[int, int, int]]:
    yield at, 2, selector
    yield at + 2, 2, attributes
    yield at + 4, 4, limit
    yield at + 8, 8, base
