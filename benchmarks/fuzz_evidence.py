"""Parsers of evidence, and valid evidence of every kind.

Recorded evidence of real machines where it is at hand, else made-up evidence of the same layout.
"""

from __future__ import annotations

import base64
import json
import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz_mutate import Make, either, json_or_raw, nasty_json, raw
from sealtune.attest import AppraisalPolicy, Evidence, Kind, KindPolicy
from sealtune.attest.appraise import Appraiser
from sealtune.attest.files import load_evidence, load_policy, stated_report_data
from sealtune.attest.platforms.certs import load_pem_bundle
from sealtune.attest.platforms.intel.quote import trim_padding
from sealtune.attest.platforms.nvidia_gpu.rim import load_rim
from sealtune.attest.platforms.sev_snp.certificates import from_file as certificates_from_file
from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
from sealtune.attest.platforms.sev_snp.state import TCB_PARTS
from sealtune.attest.platforms.simulated import SimulatedAttester
from sealtune.cli.attest_stated import stated

FIXTURES = os.environ.get("SEALTUNE_FIXTURES")  # see docs/recorded-evidence.md
NOW = datetime(2025, 7, 1, tzinfo=UTC)
CODE = b"\x11" * 48
KEY = Ed25519PrivateKey.generate()


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        name: for people.
        parse: takes one input; raises `SealtuneError`, or returns a class name, where it refuses.
        make: makes an input.
        seeds: valid inputs.
        count: inputs of a quick run.
    """

    name: str
    parse: Callable[[bytes], object]
    make: Make
    seeds: tuple[bytes, ...]
    count: int


def from_file(folder: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A parser of files as one of bytes."""
    path = folder / name

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return parse


# ---- evidence ---------------------------------------------------------------------------------


def _recorded(name: str) -> bytes | None:
    return (Path(FIXTURES) / name).read_bytes() if FIXTURES else None


def _made_up_quote(tee: int) -> bytes:
    """The layout of a quote around zeros: version 3 of an enclave, version 4 of a TD."""
    version, body = (3, bytes(384)) if tee == 0 else (4, bytes(584))
    chain = b"-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n"
    inner = bytes(448) + struct.pack("<H", 0) + struct.pack("<HI", 5, len(chain)) + chain
    nested = struct.pack("<HI", 6, len(inner)) if version > 3 else b""
    auth = bytes(128) + nested + inner
    head = struct.pack("<HHI4s16s20s", version, 2, tee, b"", b"", b"")
    return head + body + struct.pack("<I", len(auth)) + auth


def _made_up_report() -> bytes:
    report = bytearray(1184)
    report[0:4], report[8:16] = struct.pack("<I", 2), struct.pack("<Q", 1 << 17)
    report[0x34:0x38] = struct.pack("<I", 1)
    return bytes(report)


def _made_up_gpu() -> bytes:
    block = struct.pack("<BBHBH", 1, 1, 3 + 48, 1, 48) + bytes(48)
    opaque = struct.pack("<HH", 3, 4) + b"1.2\0"
    response = b"\x11\x60\0\0" + b"\1" + len(block).to_bytes(3, "little") + block + bytes(32)
    report = b"\x11\xe0\0\0" + bytes(33) + response + struct.pack("<H", len(opaque)) + opaque
    chain = b"-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n"
    fields = {"certificate": chain, "evidence": report + bytes(96)}
    entry = {name: base64.b64encode(value).decode() for name, value in fields.items()}
    return json.dumps([{"arch": "HOPPER", "nonce": "00" * 32, **entry}]).encode()


def _certificates(files: tuple[str, ...]) -> bytes:
    parts = []
    for name in files:
        data = _recorded(name) or b""
        if not data.startswith(b"-----"):
            head, foot = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
            data = head + base64.encodebytes(data) + foot
        parts.append(data)
    return b"".join(parts)


def _pieces() -> Iterator[tuple[Kind, bytes, bytes]]:
    """Evidence of each kind, with what endorses it."""
    sgx, tdx = _recorded("dcap-qvl/sgx_quote"), _recorded("dcap-qvl/tdx_quote")
    yield (
        Kind.SGX,
        trim_padding(sgx) if sgx else _made_up_quote(0),
        _recorded("dcap-qvl/sgx_quote_collateral.json") or b"{}",
    )
    yield (
        Kind.TDX,
        trim_padding(tdx) if tdx else _made_up_quote(0x81),
        _recorded("dcap-qvl/tdx_quote_collateral.json") or b"{}",
    )
    milan = ("trustee/snp/test-vcek.der", "go-sev-guest/ask_ark_milan.pem")
    snp = _recorded("trustee/snp/test-report.bin")
    yield Kind.SEV_SNP, snp or _made_up_report(), _certificates(milan)
    gpu = _recorded("nvidia-attestation-sdk/hopper_evidence.json")
    yield Kind.NVIDIA_GPU, gpu or _made_up_gpu(), b""
    simulated = SimulatedAttester(KEY, measurement=CODE).collect(bytes(64))
    yield Kind.SIMULATED, simulated.data, b""


def _reassembled(kind: Kind, data: bytes, endorsements: bytes) -> Make:
    """Evidence with a damaged part and right lengths around it."""
    parts = (raw(data), raw(endorsements or b"[]"))
    der = kind is Kind.SEV_SNP

    def make(draw: random.Random) -> bytes:
        first, second = data, endorsements
        if draw.random() < 0.6:
            first = parts[0](draw)
            if kind is Kind.NVIDIA_GPU:
                first = _gpu(draw, data)
        elif der and draw.random() < 0.7:
            second = _damaged_certificate(draw, endorsements)
        elif endorsements[:1] == b"{" and draw.random() < 0.5:
            second = nasty_json(draw, endorsements.decode()).encode()
        else:
            second = parts[1](draw)
        return Evidence(kind, first, second).encode()

    return make


def _wrapped(data: bytes) -> Make:
    """Evidence as clouds wrap it, damaged inside or outside of the wrapping."""

    def make(draw: random.Random) -> bytes:
        inner = data if draw.random() < 0.5 else raw(data)(draw)
        text = draw.choice([base64.b64encode, base64.urlsafe_b64encode])(inner).decode()
        name = draw.choice(["quote", "report", "tdQuote", "SnpReport"])
        whole = {name: text, "auxBlob": text[:400], "VcekCertChain": text[:40]}
        outer = draw.choice([whole, {"tdCcel": whole}, {"sevSnpAttestation": whole}, text])
        wrapped = json.dumps(outer)
        if draw.random() < 0.3:
            return nasty_json(draw, wrapped).encode()
        return raw(wrapped.encode())(draw) if draw.random() < 0.5 else wrapped.encode()

    return make


def _gpu(draw: random.Random, data: bytes) -> bytes:
    """GPU evidence whose report or chain is damaged inside its base64."""
    entries = json.loads(data)
    name = draw.choice(["evidence", "certificate", "json"])
    if name == "json":
        return nasty_json(draw, data.decode()).encode()
    inner = raw(base64.b64decode(entries[0][name]))(draw)
    if name == "certificate" and draw.random() < 0.7:
        inner = _damaged_certificate(draw, base64.b64decode(entries[0][name]))
    entries[0][name] = base64.b64encode(inner).decode()
    return json.dumps(entries).encode()


def _damaged_certificate(draw: random.Random, chain: bytes) -> bytes:
    """One certificate of a PEM chain damaged inside its DER."""
    head, foot = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
    ders = [base64.b64decode(p.split(foot.strip())[0]) for p in chain.split(head.strip())[1:]]
    place = draw.randrange(len(ders))
    ders[place] = raw(ders[place])(draw)
    return b"".join(head + base64.encodebytes(der) + foot for der in ders)


def _any(kind: Kind) -> KindPolicy:
    own: dict[str, Any] = {}
    if kind is Kind.SEV_SNP:
        zeros = {chip: dict.fromkeys(parts, 0) for chip, parts in TCB_PARTS.items()}
        own = {"snp": SnpPolicy(min_tcb=zeros, vlek_providers="any", max_vmpl=3)}
    if kind is Kind.NVIDIA_GPU:
        own = {"min_firmware": {"driver": "0", "vbios": "0"}}
    return KindPolicy(
        measurements="any",
        tcb_statuses=("UpToDate", "ConfigurationAndSWHardeningNeeded", "Unchecked", "Simulated"),
        advisories="any",
        allow=("smt", "dynamic-platform", "cached-keys"),
        **own,
    )


POLICY = AppraisalPolicy(kinds={kind: _any(kind) for kind in Kind})
APPRAISER = Appraiser({Kind.SIMULATED: (KEY.public_key().public_bytes_raw(),)})


def _appraise(data: bytes) -> None:
    evidence = Evidence.decode(data)
    bound = stated_report_data(evidence)
    APPRAISER.verify(evidence, report_data=bound, policy=POLICY, at=NOW)


def evidence_targets(folder: Path) -> list[Target]:
    targets, whole = [], []
    for kind, data, endorsements in _pieces():
        seed = Evidence(kind, data, endorsements).encode()
        whole.append(seed)
        make = either(_reassembled(kind, data, endorsements), raw(seed))
        targets.append(
            Target(
                f"{kind} evidence",
                _appraise,
                make,
                (seed,),
                4_000 if kind is Kind.SIMULATED else 3_000,
            )
        )
        targets.append(
            Target(
                f"{kind} evidence file",
                from_file(folder, "evidence", partial(_read_file, kind=kind)),
                either(raw(data, seed), raw(data.hex().encode()), _wrapped(data)),
                (data, seed),
                1_500,
            )
        )
    rim = _recorded("nvidia-rim/Driver_RIM_test_no_gpu.swidtag")
    if rim:
        targets.append(
            Target("GPU manifest", lambda d: load_rim(d, at=NOW), raw(rim), (rim,), 1_500)
        )
    chain = _certificates(("trustee/snp/test-vcek.der", "go-sev-guest/ask_ark_milan.pem"))
    both = dict.fromkeys(("vcekCert", "certificateChain"), chain.decode())
    answer = json.dumps(both).encode()
    targets.append(
        Target(
            "AMD certificates",
            lambda d: load_pem_bundle(certificates_from_file(d)),
            either(raw(chain, answer), json_or_raw(answer)),
            (chain, answer),
            1_500,
        )
    )
    policy = POLICY.model_dump_json().encode()
    return [
        Target("evidence", Evidence.decode, raw(*whole), tuple(whole), 8_000),
        *targets,
        Target(
            "appraisal policy",
            from_file(folder, "policy.json", load_policy),
            json_or_raw(policy),
            (policy,),
            3_000,
        ),
    ]


def _read_file(path: Path, kind: Kind) -> object:
    stated(path, kind)
    return stated_report_data(load_evidence(path.read_bytes(), kind))
