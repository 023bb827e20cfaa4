"""What an SEV-SNP report says of guest and machine, by name.

Source: AMD SEV Secure Nested Paging Firmware ABI (56860), tables "Guest Policy", "PLATFORM_INFO"
and "TCB_VERSION".

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

from sealtune.attest.errors import MalformedEvidenceError

Product = Literal["Milan", "Genoa", "Turin"]
TcbPart = Literal["fmc", "bootloader", "tee", "snp", "microcode"]
# Bit 16, and 18 to 25.
GuestBit = Literal[
    "smt",
    "migrate-ma",
    "debug",
    "single-socket",
    "cxl",
    "mem-aes-256-xts",
    "rapl-disabled",
    "ciphertext-hiding",
    "page-swap-disabled",
]
# Bits 0 to 7.
PlatformBit = Literal[
    "smt",
    "tsme",
    "ecc",
    "rapl-disabled",
    "ciphertext-hiding",
    "alias-check",
    "iommu-write-safe",
    "tio",
]

_Bit = TypeVar("_Bit", GuestBit, PlatformBit)
# Names of the parts of a TCB version, their byte in it and their extension in a VCEK or VLEK.
_BEFORE_TURIN: dict[TcbPart, tuple[int, str]] = {
    "bootloader": (0, "3.1"),
    "tee": (1, "3.2"),
    "snp": (6, "3.3"),
    "microcode": (7, "3.8"),
}
TCB_PARTS: Mapping[Product, Mapping[TcbPart, tuple[int, str]]] = {
    "Milan": _BEFORE_TURIN,
    "Genoa": _BEFORE_TURIN,
    "Turin": {
        "fmc": (0, "3.9"),
        "bootloader": (1, "3.1"),
        "tee": (2, "3.2"),
        "snp": (3, "3.3"),
        "microcode": (7, "3.8"),
    },
}
_GUEST = zip((16, *range(18, 26)), get_args(GuestBit), strict=True)
GUEST_BITS: Mapping[int, GuestBit] = dict(_GUEST)
GUEST_ABI, GUEST_RESERVED_ONE = 0xFFFF, 1 << 17
PLATFORM_BITS: Mapping[int, PlatformBit] = dict(enumerate(get_args(PlatformBit)))
# What loosens the protection, so that an appraisal policy must allow it by name.
LOOSENING = ("smt", "cxl", "tio")


class SnpState(BaseModel):
    """What only SEV-SNP has; hex is lower case.

    Attributes:
        product: of the processor.
        tcb: firmware versions by which TCB it is ("reported", "current", "committed", "launch")
            and part.
        guest_policy: names of the bits that the guest was launched with.
        platform: names of the properties that the machine has.
        host_data: 32 bytes that the host gave at launch.
        author_key: digest of the key that certified the ID key, or empty.
        vlek_provider: whose VLEK signed the report, or empty where a VCEK did.
        vmpl: privilege level that asked for the report.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    product: Product
    tcb: Mapping[str, Mapping[TcbPart, int]]
    guest_policy: tuple[GuestBit, ...]
    platform: tuple[PlatformBit, ...]
    host_data: str
    author_key: str
    vlek_provider: str
    vmpl: int

    @property
    def features(self) -> tuple[str, ...]:
        """What loosens the protection, of guest policy and machine together."""
        there = {*self.guest_policy, *self.platform}
        return tuple(name for name in LOOSENING if name in there)


def guest_bits(policy: int) -> tuple[GuestBit, ...]:
    """Names of the bits that are set in a guest policy.

    Raises:
        MalformedEvidenceError: a bit that has no meaning known here, or not the one that must be.
    """
    if not policy & GUEST_RESERVED_ONE:
        raise MalformedEvidenceError("SEV-SNP guest policy lacks a bit that must be one")
    return _named(policy & ~GUEST_ABI & ~GUEST_RESERVED_ONE, GUEST_BITS, "guest policy")


def platform_bits(info: int) -> tuple[PlatformBit, ...]:
    """Names of the bits that are set in PLATFORM_INFO.

    Raises:
        MalformedEvidenceError: a bit that has no meaning known here.
    """
    return _named(info, PLATFORM_BITS, "platform information")


def _named(bits: int, names: Mapping[int, _Bit], what: str) -> tuple[_Bit, ...]:
    named = {number: name for number, name in names.items() if bits >> number & 1}
    unknown = bits & ~sum(1 << number for number in named)
    if unknown:
        raise MalformedEvidenceError(f"SEV-SNP {what} has unknown bits {unknown:#x}")
    return tuple(named.values())
