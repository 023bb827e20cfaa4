"""Recorded evidence of real machines, in a folder of the reader's; never in the repository.

``SEALTUNE_FIXTURES`` names the folder, docs/recorded-evidence.md lists files and digests.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sealtune.attest import AppraisalPolicy, Kind, KindPolicy
from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
from sealtune.attest.platforms.sev_snp.state import TCB_PARTS

VARIABLE = "SEALTUNE_FIXTURES"
PAGE = Path(__file__).parents[2] / "docs" / "recorded-evidence.md"
FOLDER = Path(os.environ.get(VARIABLE, "")).resolve()

needs_fixtures = pytest.mark.skipif(
    not os.environ.get(VARIABLE),
    reason=f"{VARIABLE} names no folder of recorded evidence, see docs/recorded-evidence.md",
)

# What nearly all servers have on; a policy must name it.
SERVER = ("smt", "dynamic-platform", "cached-keys")


@cache
def digests() -> dict[str, str]:
    """Path in the folder -> SHA-256, as the page lists them."""
    return dict(re.findall(r"^\| `([\w./-]+)` \| `([0-9a-f]{64})` \|", PAGE.read_text(), re.M))


def recorded_file(name: str, folder: Path = FOLDER) -> Path:
    """A recorded file that is the one on the page."""
    path = folder / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == digests()[name], f"{path} is another file than docs/recorded-evidence.md lists"
    return path


def read(name: str) -> bytes:
    """A recorded file; those in hex are decoded."""
    raw = recorded_file(name).read_bytes()
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
