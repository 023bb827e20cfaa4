"""What evidence says of itself, for people to read: nothing here is verified.

Trust domain: whoever appraises an enclave.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from sealtune.attest.evidence import MAX_EVIDENCE, Evidence, Kind
from sealtune.attest.files import load_evidence
from sealtune.attest.platforms.certs import sha384
from sealtune.attest.platforms.intel.dcap import (
    SGX_DEBUG,
    TD_UNTRUSTED,
    td_measurement,
    td_registers,
)
from sealtune.attest.platforms.intel.quote import parse_quote
from sealtune.attest.platforms.nvidia_gpu.report import MAX_GPUS, parse_report
from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
from sealtune.attest.platforms.sev_snp.report import REPORT_SIZE, TCB_AT
from sealtune.attest.platforms.sev_snp.report import parse_report as parse_snp_report
from sealtune.attest.platforms.sev_snp.state import TCB_PARTS
from sealtune.attest.platforms.simulated import BODY, DEBUG
from sealtune.errors import AttestationError

Rows = list[tuple[str, str]]


def stated(file: Path, kind: Kind) -> Rows:
    """Rows of name and value; empty where the evidence cannot be read."""
    try:
        return _READERS[kind](_load(file, kind))
    except (AttestationError, OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return []


def minimums(file: Path, kind: Kind) -> dict[str, Any]:
    """Firmware versions that evidence states, as the minima of a policy; not verified.

    Empty where a kind has none, or where they cannot be told (a report of version 2 names no
    product, whose layout decides what its versions mean).
    """
    evidence = _load(file, kind)
    if kind is Kind.NVIDIA_GPU:
        rows = _nvidia(evidence)
        return {"min_firmware": {name.lower(): value for name, value in rows[1:3]}}
    if kind is not Kind.SEV_SNP:
        return {}
    report = parse_snp_report(evidence.data)
    chip = report.product
    if chip is None:
        return {}
    least = {
        name: min(report.tcb(which)[byte] for which in TCB_AT)
        for name, (byte, _) in TCB_PARTS[chip].items()
    }
    return {"snp": SnpPolicy(min_tcb={chip: least})}


def _load(file: Path, kind: Kind) -> Evidence:
    with file.open("rb") as source:
        return load_evidence(source.read(MAX_EVIDENCE), kind)


def _intel(evidence: Evidence) -> Rows:
    quote = parse_quote(evidence.data)
    if quote.kind is not evidence.kind:
        return []
    if quote.kind is Kind.SGX:
        return _rows(
            quote.field(64, 32),
            quote.field(128, 32),
            str(int.from_bytes(quote.field(258, 2), "little")),
            bool(quote.attributes & SGX_DEBUG),
            quote.report_data,
        )
    rows = _rows(
        td_measurement(quote), b"", "-", bool(quote.attributes & TD_UNTRUSTED), quote.report_data
    )
    return rows + [(name, value.hex()) for name, value in td_registers(quote).items()]


def _amd(evidence: Evidence) -> Rows:
    raw = evidence.data
    if len(raw) != REPORT_SIZE:
        return []
    debug = bool(raw[8 + 2] >> 3 & 1)  # bit 19 of the guest policy
    signer = raw[0xE0:0x110] if any(raw[0xE0:0x110]) else b""
    svn = str(int.from_bytes(raw[4:8], "little"))
    return _rows(raw[0x90:0xC0], signer, svn, debug, raw[0x50:0x90])


def _nvidia(evidence: Evidence) -> Rows:
    rows: Rows = []
    for entry in json.loads(evidence.data)[:MAX_GPUS]:
        report = parse_report(base64.b64decode(entry["evidence"]))
        rows += [
            ("measurement", sha384(report.record).hex()),
            ("driver", report.driver),
            ("VBIOS", report.vbios),
            ("nonce", report.nonce.hex()),
        ]
    return rows


def _simulated(evidence: Evidence) -> Rows:
    if len(evidence.data) < BODY.size:
        return []
    _, flags, svn, measurement, bound, key = BODY.unpack_from(evidence.data)
    return _rows(measurement, key, str(svn), bool(flags & DEBUG), bound)


def _rows(measurement: bytes, signer: bytes, svn: str, debug: bool, bound: bytes) -> Rows:
    return [
        ("measurement", measurement.hex()),
        ("signer", signer.hex() or "-"),
        ("security version", svn),
        ("debug", "YES" if debug else "no"),
        ("report data", bound.hex()),
    ]


_READERS = {
    Kind.SGX: _intel,
    Kind.TDX: _intel,
    Kind.SEV_SNP: _amd,
    Kind.NVIDIA_GPU: _nvidia,
    Kind.SIMULATED: _simulated,
}
