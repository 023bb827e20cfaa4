"""Appraisal as a whole: files, dispatch by kind, and an enclave together with its GPUs."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest import AppraisalPolicy, Claims, Evidence, Kind, KindPolicy, Verifier
from sealtune.attest.appraise import Appraiser, verify_party
from sealtune.attest.errors import (
    BadChainError,
    GpuEvidenceError,
    KindNotAllowedError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    TrailingBytesError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.evidence import MAX_EVIDENCE
from sealtune.attest.files import (
    appraise,
    claims_table,
    load_evidence,
    load_policy,
    stated_report_data,
)
from sealtune.attest.platforms.nvidia_gpu.report import reported_nonce
from sealtune.attest.platforms.simulated import SimulatedAttester, simulated_policy
from sealtune.attest.policy import parse_policy
from sealtune.errors import ConfigError, MalformedManifestError, SealtuneError
from tests.attest import amd, gpu, intel
from tests.attest.public import (
    SERVER,
    day,
    kind_policy,
    needs_fixtures,
    policy,
    read,
    recorded_file,
)

KEY = Ed25519PrivateKey.generate()
PUBLIC = (KEY.public_key().public_bytes_raw(),)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TDX = "dcap-qvl/tdx_quote"
GPU = "nvidia-attestation-sdk/hopper_evidence.json"


# ---- files --------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("form", ["raw", "hex", "own"])
def test_a_quote_in_every_form(form: str, tmp_path: Path) -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    raw = read(TDX)
    if form == "hex":
        raw = b"\n".join(raw.hex().encode()[i : i + 80] for i in range(0, 2 * len(raw), 80))
    elif form == "own":
        raw = load_evidence(raw, Kind.TDX).encode()
    path = tmp_path / "evidence"
    path.write_bytes(raw)
    collateral = recorded_file("dcap-qvl/tdx_quote_collateral.json")
    accepted = policy(Kind.TDX, allow=SERVER)
    claims = appraise(path, Kind.TDX, [collateral], accepted, day("2025-07-01"))
    assert claims.tcb_status == "UpToDate"
    with pytest.raises(WrongReportDataError):
        appraise(path, Kind.TDX, [collateral], accepted, day("2025-07-01"), report_data=bytes(64))
    with pytest.raises(MissingCollateralError):
        appraise(path, Kind.TDX, [collateral] * 2, accepted, day("2025-07-01"))
    with pytest.raises(MissingCollateralError):
        appraise(path, Kind.TDX, [], accepted, day("2025-07-01"))


@needs_fixtures
def test_padding_of_a_file_must_be_zero(tmp_path: Path) -> None:
    raw = bytearray(read(TDX))
    raw[-1] = 1
    path = tmp_path / "evidence"
    path.write_bytes(raw)
    with pytest.raises(TrailingBytesError):
        appraise(path, Kind.TDX, [], policy(Kind.TDX), day("2025-07-01"))


@needs_fixtures
def test_certificates_in_der_and_pem(tmp_path: Path) -> None:
    accepted = policy(Kind.SEV_SNP, allow=("smt",), tcb_statuses=("Unchecked",))
    files = [
        recorded_file("virtee-sev/vcek_milan.der"),
        recorded_file("virtee-sev/cert_chain_milan"),
    ]
    claims = appraise(
        recorded_file("virtee-sev/report_milan.hex"),
        Kind.SEV_SNP,
        files,
        accepted,
        day("2025-01-01"),
    )
    assert claims.details["product"] == "Milan"


@needs_fixtures
def test_gpu_file() -> None:
    accepted = policy(Kind.NVIDIA_GPU, tcb_statuses=("Unchecked",))
    claims = appraise(recorded_file(GPU), Kind.NVIDIA_GPU, [], accepted, day("2025-01-01"))
    assert claims.details["chip"] == "GH100"


def test_simulated_file(tmp_path: Path) -> None:
    evidence = SimulatedAttester(KEY).collect(bytes(64))
    path, other = tmp_path / "evidence", tmp_path / "another key"
    own = tmp_path / "key"
    own.write_bytes(PUBLIC[0])
    other.write_bytes(bytes(32))
    for raw in (evidence.data, evidence.encode(), evidence.data.hex().encode()):
        path.write_bytes(raw)
        claims = appraise(path, Kind.SIMULATED, [own], simulated_policy(), NOW)
        assert claims.confidential is False
        rows = dict(claims_table(claims, report_data_checked=False))
        assert rows["confidential"].startswith("NO")
        assert "not compared" in rows["report data"]
    with pytest.raises(UnknownSignerError):
        appraise(path, Kind.SIMULATED, [other], simulated_policy(), NOW)
    path.write_bytes(b"SIM1")
    with pytest.raises(MalformedEvidenceError):
        appraise(path, Kind.SIMULATED, [own], simulated_policy(), NOW)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    accepted = policy(Kind.TDX)
    with pytest.raises(MalformedEvidenceError, match="cannot be read"):
        appraise(tmp_path / "none", Kind.TDX, [], accepted, NOW)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 26)
    with pytest.raises(OversizeEvidenceError, match="large has more than"):
        appraise(large, Kind.TDX, [], accepted, NOW)
    with large.open("wb") as file:
        file.truncate(MAX_EVIDENCE)
    with pytest.raises(MalformedEvidenceError, match="quote of"):
        appraise(large, Kind.TDX, [], accepted, NOW)
    own = tmp_path / "own"
    own.write_bytes(Evidence(Kind.SGX, b"x").encode())
    with pytest.raises(MalformedEvidenceError, match="holds sgx evidence, not tdx"):
        appraise(own, Kind.TDX, [], accepted, NOW)
    with pytest.raises(KindNotAllowedError):
        appraise(own, Kind.SGX, [], accepted, NOW)


def test_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"kinds": {"tdx": {"measurements": "any", "allow": ["smt"]}}}')
    assert load_policy(path).for_kind(Kind.TDX).allow == ("smt",)
    path.write_text('{"kinds": {"tdx": {"min_svn": -1, "debug": true}}, "gpu": 1}')
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    keys = {problem.key for problem in caught.value.problems}
    assert {"kinds.tdx.measurements", "kinds.tdx.min_svn", "kinds.tdx.debug", "gpu"} <= keys
    path.write_text("{")
    with pytest.raises(ConfigError):
        load_policy(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path / "none")
    path.write_text('{"kinds": {"tdx": {"measurements": "any"}}, "gpu_required": true}')
    with pytest.raises(ConfigError, match=r"\(file\): gpu_required needs a policy"):
        load_policy(path)
    signed = {"kinds": {"tdx": {"measurements": "any"}}, "gpu_required": True}
    with pytest.raises(MalformedManifestError, match="at appraisal: gpu_required needs"):
        parse_policy(signed)


def test_collateral_of_one_quote_is_one_file() -> None:
    evidence = Evidence(Kind.TDX, intel.quote(intel.td_body()))
    for files, error in (
        ([b"{}"], BadChainError),  # of no vendor, but looked at
        ([b"{}", b"{}"], MissingCollateralError),
    ):
        with pytest.raises(error):
            Appraiser({Kind.TDX: files}).verify(
                evidence,
                report_data=intel.REPORT_DATA,
                policy=policy(Kind.TDX),
                at=day("2025-06-15"),
            )


def test_certificates_beside_a_report_are_looked_at() -> None:
    key, chain = amd.certificate()
    evidence = Evidence(Kind.SEV_SNP, amd.report(key))
    for given, error in (({Kind.SEV_SNP: [chain]}, BadChainError), ({}, MissingCollateralError)):
        with pytest.raises(error):
            Appraiser(given).verify(
                evidence,
                report_data=bytes(64),
                policy=policy(Kind.SEV_SNP),
                at=day("2025-06-15"),
            )


def test_zeros_after_a_quote_are_padding() -> None:
    quote = intel.quote(intel.td_body())
    assert load_evidence(quote + bytes(70), Kind.TDX).data == quote
    assert load_evidence(quote + bytes(70) + b"x", Kind.TDX).data == quote + bytes(70) + b"x"


def test_what_evidence_says_it_is_over() -> None:
    key, _ = amd.certificate()
    for kind, data, bound in (
        (Kind.TDX, intel.quote(intel.td_body()), intel.REPORT_DATA),
        (Kind.SGX, intel.quote(intel.sgx_body(), version=3), intel.REPORT_DATA),
        (Kind.SEV_SNP, amd.report(key), bytes(range(64, 128))),
        (Kind.NVIDIA_GPU, gpu.one(), gpu.NONCE),
        (Kind.SIMULATED, SimulatedAttester(KEY).collect(b"\7" * 64).data, b"\7" * 64),
    ):
        assert stated_report_data(Evidence(kind, data)) == bound
        if kind is Kind.SIMULATED:
            assert stated_report_data(Evidence(kind, data[:-64])) == bound
    with pytest.raises(MalformedEvidenceError, match="shows no machine"):
        stated_report_data(Evidence(Kind.PARTICIPANT, b""))
    with pytest.raises(MalformedEvidenceError, match="no evidence of a machine"):
        Appraiser().verify(
            Evidence(Kind.PARTICIPANT, b""),
            report_data=bytes(64),
            policy=policy(Kind.PARTICIPANT),
            at=NOW,
        )


def test_table_of_claims() -> None:
    key, chain = amd.certificate()
    claims = amd.verify(amd.report(key), chain)
    device = gpu.verify(gpu.one())
    table = claims_table(claims.model_copy(update={"gpu": (device,)}), report_data_checked=True)
    rows = dict(table)
    assert len(rows) == len(table)
    assert rows["measurement"] == amd.MEASUREMENT.hex()
    assert rows["signer"] == amd.ID_KEY.hex()
    assert rows["security version"] == "1"
    assert (rows["debug"], rows["confidential"]) == ("no", "yes")
    assert (rows["features"], rows["advisories"]) == ("smt", "-")
    assert rows["platform"] == amd.CHIP.hex()
    assert rows["report data"] == bytes(range(64, 128)).hex()
    assert rows["launch TCB"] == "bootloader 3, tee 2, snp 8, microcode 115"
    assert (rows["GPU 1 driver"], rows["GPU 1 signer"]) == (gpu.DRIVER, "-")
    assert (rows["GPU 1 features"], rows["GPU 1 platform"]) == ("-", device.platform)
    changed = {"debug": True, "platform": "", "advisories": ("A", "B")}
    rows = dict(claims_table(claims.model_copy(update=changed), report_data_checked=True))
    assert (rows["debug"], rows["platform"], rows["advisories"]) == ("YES", "-", "A, B")


# ---- an enclave with its GPUs -------------------------------------------------------------


class Enclave:
    """Stands for a hardware verifier: no recorded quote was made over recorded GPU evidence."""

    def __init__(self, gpus: Verifier | None = None) -> None:
        self.gpus = gpus or Appraiser()

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        if evidence.kind is Kind.NVIDIA_GPU:
            return self.gpus.verify(evidence, report_data=report_data, policy=policy, at=at)
        policy.for_kind(evidence.kind)
        if evidence.data != report_data:
            raise WrongReportDataError("other report data")
        return Claims(
            kind=evidence.kind,
            confidential=True,
            measurement="00",
            tcb_status="UpToDate",
            debug=False,
            report_data=report_data.hex(),
            verified_at=at,
        )


def party(gpu: bytes, nonce: bytes, *, required: bool = True, **kinds: Any) -> Claims:
    accepted = AppraisalPolicy(
        kinds={
            kind: kind_policy(kind, tcb_statuses=("UpToDate", "Unchecked"))
            for kind in (Kind.TDX, Kind.NVIDIA_GPU)
        },
        gpu_required=required,
    )
    if "policy" in kinds:
        accepted = kinds["policy"]
    return verify_party(
        Enclave(),
        Evidence(Kind.TDX, b"r" * 64, gpu=gpu),
        report_data=b"r" * 64,
        gpu_nonce=nonce,
        policy=accepted,
        at=day("2025-01-01"),
    )


@needs_fixtures
def test_enclave_with_gpus() -> None:
    for name, count in ((GPU, 1), ("nvidia-attestation-sdk/multi_gpu_hopper.json", 4)):
        data = read(name)
        claims = party(data, reported_nonce(data))
        assert [gpu.kind for gpu in claims.gpu] == [Kind.NVIDIA_GPU] * count
        rows = dict(claims_table(claims, report_data_checked=True))
        assert rows[f"GPU {count} confidential"] == "yes"
        with pytest.raises(WrongReportDataError):
            party(data, bytes(32))


@needs_fixtures
def test_gpu_that_the_policy_does_not_name() -> None:
    only = AppraisalPolicy(kinds={Kind.TDX: KindPolicy(measurements="any")})
    data = read(GPU)
    with pytest.raises(KindNotAllowedError):
        party(data, reported_nonce(data), policy=only)


def test_gpu_required_but_absent() -> None:
    with pytest.raises(GpuEvidenceError):
        party(b"", bytes(32))
    assert party(b"", bytes(32), required=False).gpu == ()
    # A verifier of enclaves alone never satisfies such a policy.
    strict = simulated_policy().model_copy(update={"gpu_required": True})
    with pytest.raises(GpuEvidenceError):
        Appraiser({Kind.SIMULATED: PUBLIC}).verify(
            SimulatedAttester(KEY).collect(bytes(64)),
            report_data=bytes(64),
            policy=strict,
            at=NOW,
        )


# ---- fuzzing ------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("kind", [k for k in Kind if k not in (Kind.PARTICIPANT, Kind.UNATTESTED)])
def test_altered_evidence_of_every_kind(kind: Kind) -> None:
    """Random damage, through the whole appraisal: refused in our own words, each time."""
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    seeds = {
        Kind.SIMULATED: (SimulatedAttester(KEY).collect(bytes(64)).data, b""),
        Kind.SGX: (read("dcap-qvl/sgx_quote"), read("dcap-qvl/sgx_quote_collateral.json")),
        Kind.TDX: (read(TDX)[:4936], read("dcap-qvl/tdx_quote_collateral.json")),
        Kind.SEV_SNP: (
            read("trustee/az-snp-vtpm/hcl-report.bin")[32 : 32 + 1184],
            read("trustee/az-snp-vtpm/vcek.pem"),
        ),
        Kind.NVIDIA_GPU: (read(GPU), b""),
    }
    settings: dict[str, Any] = {
        "measurements": "any",
        "advisories": "any",
        "allow": SERVER,
        "tcb_statuses": (
            "UpToDate",
            "ConfigurationAndSWHardeningNeeded",
            "Unchecked",
            "Simulated",
        ),
    }
    accepted = AppraisalPolicy(kinds={k: kind_policy(k, **settings) for k in Kind})
    appraiser = Appraiser({Kind.SIMULATED: PUBLIC})
    draw = random.Random(str(kind))
    data, endorsements = seeds[kind]
    for count in range(1500):
        parts = [bytearray(data), bytearray(endorsements)]
        target = parts[count % 2 if endorsements else 0]
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(target))
            match draw.randrange(4):
                case 0:
                    target[at] ^= 1 << draw.randrange(8)
                case 1:
                    target[at : at + 4] = draw.choice([b"\0" * 4, b"\xff" * 4, b"\x7f" * 4])
                case 2 if at:
                    del target[at:]
                case _:
                    target[at:at] = draw.randbytes(draw.randrange(6))
        evidence = Evidence(kind, bytes(parts[0]), bytes(parts[1]))
        try:
            bound = stated_report_data(evidence)
            appraiser.verify(evidence, report_data=bound, policy=accepted, at=day("2025-07-01"))
        except SealtuneError:
            continue
        # Only what nobody signed may have changed: line ends of PEM, unused ends of JSON.
        assert parts[0] == data
