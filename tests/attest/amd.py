"""SEV-SNP reports of a made-up AMD: chips, a cloud provider's VLEK, and whatever state is asked."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from sealtune.attest import Claims, Evidence, Kind
from sealtune.attest.platforms.sev_snp.report import OID, REPORT_SIZE, SIGNED, SnpVerifier
from tests.attest.authority import Authority, sign_raw
from tests.attest.public import day, policy

VENDOR = Authority()
CHIP = bytes(range(64))
TCB = bytes((3, 2, 0, 0, 0, 0, 8, 0x73))  # bootloader 3, tee 2, snp 8, microcode 115
TURIN_TCB = bytes((1, 2, 3, 4, 0, 0, 0, 5))  # fmc, bootloader, tee, snp, microcode
SMT = 0x30000  # a guest policy: SMT, and the bit that must be one
MEASUREMENT = b"\xaa" * 48
ID_KEY, AUTHOR_KEY, HOST_DATA = b"\x1d" * 48, b"\xa0" * 48, b"\x4d" * 32
PROVIDER = "CN=cloud.example"
ACCEPTING: dict[str, Any] = {"tcb_statuses": ("Unchecked", "MinimumMet"), "allow": ("smt",)}


def ia5(text: str) -> bytes:
    """A short IA5String in DER."""
    return b"\x16" + bytes((len(text),)) + text.encode()


def spl(value: int) -> bytes:
    """A DER INTEGER of one unsigned byte."""
    return b"\x02\x01" + bytes((value,)) if value < 128 else b"\x02\x02\0" + bytes((value,))


def certificate(
    name: str = "SEV-VCEK", *, vendor: Authority = VENDOR, **change: bytes
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key of a Milan with `TCB`, and its chain; ``x3_8`` and the like replace an extension."""
    fields = {"2": ia5("Milan-B0"), "4": CHIP} | {
        oid: spl(TCB[byte]) for oid, byte in {"3.1": 0, "3.2": 1, "3.3": 6, "3.8": 7}.items()
    }
    if name == "SEV-VLEK":
        fields |= {"5": ia5(PROVIDER)}
        del fields["4"]
    fields |= {key.lstrip("x").replace("_", "."): value for key, value in change.items()}
    return vendor.leaf(name, {f"{OID}.{key}": value for key, value in fields.items() if value})


def turin() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key of a Turin with `TURIN_TCB` and an id of 8 bytes, and its chain."""
    parts = {"x3_9": 0, "x3_1": 1, "x3_2": 2, "x3_3": 3, "x3_8": 7}
    extensions = {oid: spl(TURIN_TCB[byte]) for oid, byte in parts.items()}
    return certificate(x2=ia5("Turin-B1"), x4=CHIP[:8], **extensions)


def report(
    key: ec.EllipticCurvePrivateKey,
    *,
    version: int = 2,
    svn: int = 1,
    policy_bits: int = SMT,
    vmpl: int = 0,
    algorithm: int = 1,
    platform: int = 1,
    flags: int = 0,
    zero: int = 0,
    report_data: bytes = bytes(range(64, 128)),
    measurement: bytes = MEASUREMENT,
    host_data: bytes = HOST_DATA,
    id_key: bytes = ID_KEY,
    author_key: bytes = bytes(48),
    cpuid: bytes = bytes(3),
    chip: bytes = CHIP,
    reported: bytes = TCB,
    current: bytes = TCB,
    committed: bytes = TCB,
    launch: bytes = TCB,
) -> bytes:
    """A signed report; what is left out is that of an ordinary Milan."""
    raw = bytearray(REPORT_SIZE)
    struct.pack_into("<IIQ", raw, 0, version, svn, policy_bits)
    struct.pack_into("<II", raw, 0x30, vmpl, algorithm)
    struct.pack_into("<QII", raw, 0x40, platform, flags, zero)
    for at, field in (
        (0x38, current),
        (0x50, report_data),
        (0x90, measurement),
        (0xC0, host_data),
        (0xE0, id_key),
        (0x110, author_key),
        (0x180, reported),
        (0x188, cpuid),
        (0x1A0, chip),
        (0x1E0, committed),
        (0x1F0, launch),
    ):
        raw[at : at + len(field)] = field
    r, s = sign_raw(key, bytes(raw[:SIGNED]))
    raw[SIGNED : SIGNED + 48] = r.to_bytes(48, "little")
    raw[SIGNED + 72 : SIGNED + 120] = s.to_bytes(48, "little")
    return bytes(raw)


def verify(
    raw: bytes,
    chain: bytes,
    *,
    at: str = "2025-06-01",
    report_data: bytes | None = None,
    roots: Collection[bytes] = frozenset(VENDOR.roots),
    **settings: Any,
) -> Claims:
    """Appraise under the made-up root; ``settings`` are of the policy."""
    return SnpVerifier(roots=roots).verify(
        Evidence(Kind.SEV_SNP, raw, chain),
        report_data=raw[0x50:0x90] if report_data is None else report_data,
        policy=policy(Kind.SEV_SNP, **{**ACCEPTING, **settings}),
        at=day(at),
    )
