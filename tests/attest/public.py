"""Recorded evidence of real machines, beside the repository; never copied into it."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealtune.attest import AppraisalPolicy, Kind, KindPolicy
from sealtune.attest.snp_policy import SnpPolicy
from sealtune.attest.snp_state import TCB_PARTS

ROOT = Path(__file__).parents[2].parent / "shared" / "fixtures"

needs_fixtures = pytest.mark.skipif(
    not ROOT.is_dir(), reason=f"recorded evidence of real machines is not at {ROOT}"
)

# What nearly all servers have on; a policy must name it.
SERVER = ("smt", "dynamic-platform", "cached-keys")


def read(name: str) -> bytes:
    """A recorded file; those in hex are decoded."""
    raw = (ROOT / name).read_bytes()
    return bytes.fromhex(raw.decode()) if name.endswith((".hex", "Report.txt")) else raw


def pem(der: str | bytes) -> bytes:
    """A DER certificate, or a recorded file with one, as PEM."""
    text = base64.encodebytes(read(der) if isinstance(der, str) else der)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def kind_policy(kind: Kind, **settings: Any) -> KindPolicy:
    """Takes any code on any firmware, and what else is given; ``snp`` has settings of its own."""
    needed: dict[str, Any] = {"measurements": "any"}
    if kind is Kind.SEV_SNP:
        zeros = {chip: dict.fromkeys(parts, 0) for chip, parts in TCB_PARTS.items()}
        settings["snp"] = SnpPolicy(**{"min_tcb": zeros, **settings.get("snp", {})})
    if kind is Kind.NVIDIA_GPU:
        needed["min_firmware"] = {"driver": "0", "vbios": "0"}
    return KindPolicy(**(needed | settings))


def policy(kind: Kind, **settings: Any) -> AppraisalPolicy:
    """The same as a whole policy."""
    return AppraisalPolicy(kinds={kind: kind_policy(kind, **settings)})


def flips(raw: bytes, count: int, seed: int) -> Iterator[bytes]:
    """``raw`` with one bit flipped, at ``count`` different random places."""
    for place in random.Random(seed).sample(range(8 * len(raw)), count):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)
