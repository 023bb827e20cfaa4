"""SEV-SNP reports: recorded ones, and made-up ones for what none of those shows."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from sealtune.attest import Claims, Evidence, Kind
from sealtune.attest.certs import load_der, load_pem_chain, verify_chain
from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    DebugEnclaveError,
    GuestPolicyError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    PlatformNotAllowedError,
    StaleCollateralError,
    SvnTooLowError,
    TcbOutOfDateError,
    TrailingBytesError,
    UnknownMeasurementError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.sev_snp import AMD_ROOTS, REPORT_SIZE, SIGNED, SnpVerifier, product
from sealtune.errors import AttestationError
from tests.attest.authority import Authority, sign_raw
from tests.attest.public import day, flips, needs_fixtures, pem, policy, read

ACCEPTING: dict[str, Any] = {"tcb_statuses": ("Unchecked", "MinimumMet"), "allow": ("smt",)}


def verify(
    report: bytes,
    certificates: bytes,
    *,
    at: str = "2025-06-01",
    report_data: bytes | None = None,
    roots: Any = AMD_ROOTS,
    **settings: Any,
) -> Claims:
    return SnpVerifier(roots=roots).verify(
        Evidence(Kind.SEV_SNP, report, certificates),
        report_data=report[0x50:0x90] if report_data is None else report_data,
        policy=policy(Kind.SEV_SNP, **{**ACCEPTING, **settings}),
        at=day(at),
    )


def milan(name: str) -> tuple[bytes, bytes]:
    """A recorded Milan report and its chain."""
    chain = read("go-sev-guest/ask_ark_milan.pem")
    match name:
        case "trustee":
            return read("trustee/snp/test-report.bin"), pem("trustee/snp/test-vcek.der") + chain
        case "virtee":
            return read("virtee-sev/report_milan.hex"), pem("virtee-sev/vcek_milan.der") + read(
                "virtee-sev/cert_chain_milan"
            )
        case "azure":
            report = read("trustee/az-snp-vtpm/hcl-report.bin")[32 : 32 + REPORT_SIZE]
            return report, read("trustee/az-snp-vtpm/vcek.pem")
        case "vlek":
            return read("trustee/snp/test-vlek-report.bin"), pem(
                "trustee/snp/test-vlek.der"
            ) + read("go-sev-guest/milanvlek.testcer")
        case _:
            return read("go-sev-guest/attestation.bin"), pem("go-sev-guest/vcek.testcer") + chain


# ---- recorded -----------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("name", ["trustee", "virtee", "azure"])
def test_milan_accepted(name: str) -> None:
    report, chain = milan(name)
    claims = verify(report, chain)
    assert claims.confidential
    assert claims.details["product"] == "Milan-B0"
    assert claims.details["signed by"] == "VCEK"
    assert claims.measurement == report[0x90:0xC0].hex()
    assert claims.platform == report[0x1A0:0x1E0].hex()
    assert claims.features == ("smt",)
    assert claims.tcb_status == "Unchecked"
    assert verify(report, chain, min_tcb={"snp": 8}).tcb_status == "MinimumMet"


@needs_fixtures
def test_genoa_accepted() -> None:
    recorded = json.loads(read("trustee/az-snp-vtpm/evidence-genoa.json"))
    report = bytes(recorded["report"])[32 : 32 + REPORT_SIZE]
    chain = read("trustee/az-snp-vtpm/vcek-genoa.pem") + read("go-sev-guest/ask_ark_genoa.pem")
    claims = verify(report, chain)
    assert claims.details["product"] == "Genoa"
    assert claims.features == ()
    with pytest.raises(BadChainError):
        verify(
            report,
            read("trustee/az-snp-vtpm/vcek-genoa.pem") + read("go-sev-guest/ask_ark_milan.pem"),
        )


@needs_fixtures
def test_vlek_accepted_below_a_paravisor() -> None:
    report, chain = milan("vlek")
    claims = verify(report, chain, max_vmpl=1)
    assert claims.details["signed by"] == "VLEK"
    assert claims.platform == ""
    with pytest.raises(GuestPolicyError, match="VMPL 1"):
        verify(report, chain)
    with pytest.raises(StaleCollateralError):
        verify(report, chain, max_vmpl=1, at="2026-02-01")


@needs_fixtures
def test_turin_chain() -> None:
    chain = pem("virtee-sev/vcek_turin.der") + read("virtee-sev/cert_chain_turin")
    parsed = load_pem_chain(chain, strict=False)
    verify_chain(parsed, roots=AMD_ROOTS, at=day("2025-06-01"), what="VCEK")
    assert product(parsed[0]) == "Turin"


@needs_fixtures
def test_debug_guest_refused() -> None:
    with pytest.raises(DebugEnclaveError):
        verify(*milan("debug"))


@needs_fixtures
def test_debug_bit_cannot_be_cleared() -> None:
    report, chain = milan("debug")
    changed = bytearray(report)
    changed[0x0A] &= ~0x08  # bit 19 of the policy
    with pytest.raises(BadSignatureError):
        verify(bytes(changed), chain)


@needs_fixtures
@pytest.mark.parametrize("name", ["legacy", "new"])
def test_bad_vcek_refused(name: str) -> None:
    report, _ = milan("trustee")
    leaf = pem(f"trustee/snp/test-vcek-invalid-{name}.der")
    with pytest.raises(BadChainError):
        verify(report, leaf + read("go-sev-guest/ask_ark_milan.pem"))


@needs_fixtures
def test_vcek_of_another_chip_refused() -> None:
    report, _ = milan("trustee")
    with pytest.raises(BadChainError, match="another chip"):
        verify(report, milan("virtee")[1])
    with pytest.raises(BadChainError):
        verify(report, milan("vlek")[1])


@needs_fixtures
@pytest.mark.parametrize("name", ["trustee", "virtee", "azure"])
def test_one_bit_at_200_places(name: str) -> None:
    report, chain = milan(name)
    accepted = 0
    for raw in flips(report, 200, seed=3):
        try:
            verify(raw, chain, report_data=raw[0x50:0x90])
            accepted += 1
        except AttestationError:
            pass
    assert accepted == 0


@needs_fixtures
def test_one_bit_of_the_vcek() -> None:
    report, _ = milan("trustee")
    chain = read("go-sev-guest/ask_ark_milan.pem")
    der = read("trustee/snp/test-vcek.der")
    for raw in flips(der, 200, seed=4):
        with pytest.raises(AttestationError):
            SnpVerifier(pem(raw) + chain).verify(
                Evidence(Kind.SEV_SNP, report),
                report_data=report[0x50:0x90],
                policy=policy(Kind.SEV_SNP, **ACCEPTING),
                at=day("2025-06-01"),
            )


@needs_fixtures
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"report_data": bytes(64)}, WrongReportDataError),
        ({"measurements": ("00" * 48,)}, UnknownMeasurementError),
        ({"signers": ("00" * 48,)}, UnknownSignerError),
        ({"min_svn": 100}, SvnTooLowError),
        ({"min_tcb": {"microcode": 0x74}}, TcbOutOfDateError),
        ({"min_tcb": {"fmc": 0}}, TcbOutOfDateError),  # Milan has no such part
        ({"tcb_statuses": ("MinimumMet",)}, TcbOutOfDateError),
        ({"allow": ()}, PlatformNotAllowedError),
        ({"platforms": ("00" * 64,)}, PlatformNotAllowedError),
        ({"at": "2020-01-01"}, StaleCollateralError),
        ({"at": "2040-01-01"}, StaleCollateralError),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(*milan("trustee"), **change)


@needs_fixtures
def test_certificates_missing_or_in_a_wrong_order() -> None:
    report, chain = milan("trustee")
    with pytest.raises(MissingCollateralError):
        verify(report, b"")
    leaf, ask, ark = (
        part + b"-----END CERTIFICATE-----\n"
        for part in chain.split(b"-----END CERTIFICATE-----\n")[:3]
    )
    for wrong in (leaf + ark + ask, leaf + ask, leaf, ask + ark, leaf + ask + ark + ark, ark):
        with pytest.raises(BadChainError):
            verify(report, wrong)
    with pytest.raises(OversizeEvidenceError):
        verify(report, b" " * ((1 << 20) + 1))


@needs_fixtures
def test_sizes() -> None:
    report, chain = milan("trustee")
    with pytest.raises(TrailingBytesError):
        verify(report + b"\0", chain)
    with pytest.raises(MalformedEvidenceError):
        verify(report[:-1], chain)
    with pytest.raises(OversizeEvidenceError):
        verify(bytes((1 << 20) + 1), chain)


# ---- made up ------------------------------------------------------------------------------

VENDOR = Authority()
CHIP = bytes(range(64))
OID = "1.3.6.1.4.1.3704.1"


def certificate(name: str = "SEV-VCEK", **change: bytes) -> tuple[Any, bytes]:
    """A VCEK with bootloader 3, tee 0, snp 8, microcode 115."""
    fields = {
        "2": b"\x16\x08Milan-B0",
        "3.1": b"\x02\x01\x03",
        "3.2": b"\x02\x01\x00",
        "3.3": b"\x02\x01\x08",
        "3.8": b"\x02\x01\x73",
        "4": CHIP,
    } | {key.lstrip("x").replace("_", "."): value for key, value in change.items()}
    return VENDOR.leaf(name, {f"{OID}.{key}": value for key, value in fields.items() if value})


def report(
    key: Any, *, policy_bits: int = 0x30000, vmpl: int = 0, flags: int = 0, chip: bytes = CHIP
) -> bytes:
    raw = bytearray(REPORT_SIZE)
    struct.pack_into("<IIQ", raw, 0, 2, 1, policy_bits)
    struct.pack_into("<II", raw, 0x30, vmpl, 1)
    raw[0x180:0x188] = bytes((3, 0, 0, 0, 0, 0, 8, 0x73))
    raw[0x1A0:0x1E0] = chip
    struct.pack_into("<I", raw, 0x48, flags)
    r, s = sign_raw(key, bytes(raw[:SIGNED]))
    raw[SIGNED : SIGNED + 48] = r.to_bytes(48, "little")
    raw[SIGNED + 72 : SIGNED + 120] = s.to_bytes(48, "little")
    return bytes(raw)


def made_up(raw: bytes, chain: bytes, **settings: Any) -> Claims:
    return verify(raw, chain, roots=VENDOR.roots, **settings)


def test_made_up_report_accepted_only_under_its_own_root() -> None:
    key, chain = certificate()
    made_up(report(key), chain)
    with pytest.raises(BadChainError, match="pinned root"):
        verify(report(key), chain)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"policy_bits": 0x70000}, GuestPolicyError),  # migration agent
        ({"policy_bits": 0xB0000}, DebugEnclaveError),
        ({"policy_bits": 0x10000}, MalformedEvidenceError),  # reserved bit cleared
        ({"vmpl": 1}, GuestPolicyError),
        ({"vmpl": 2**32 - 1}, GuestPolicyError),  # asked for by the host
        ({"flags": 1 << 2}, BadChainError),  # says VLEK
        ({"flags": 7 << 2}, BadChainError),  # signed by nothing
        ({"chip": bytes(63) + b"\1"}, BadChainError),
    ],
)
def test_made_up_reports_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    key, chain = certificate()
    with pytest.raises(error):
        made_up(report(key, **fields), chain)


def test_masked_chip_id_is_accepted_but_names_no_machine() -> None:
    key, chain = certificate()
    raw = report(key, chip=bytes(64))
    assert made_up(raw, chain).platform == ""
    with pytest.raises(PlatformNotAllowedError, match="unnamed"):
        made_up(raw, chain, platforms=("00" * 64,))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SEV-VLEK", {}),
        ("SEV-ASK", {}),
        ("SEV-VCEK", {"x3_8": b"\x02\x01\x74"}),  # other patch levels than reported
        ("SEV-VCEK", {"x3_1": b"\x02\x01\x04"}),
        ("SEV-VCEK", {"x3_2": b""}),  # none at all
        ("SEV-VCEK", {"x3_3": b"\x02\x02\x01\x08"}),
        ("SEV-VCEK", {"x2": b""}),
        ("SEV-VCEK", {"x4": b""}),
        ("SEV-VCEK", {"x4": CHIP[:32]}),
    ],
)
def test_made_up_certificates_refused(name: str, change: dict[str, bytes]) -> None:
    key, chain = certificate(name, **change)
    with pytest.raises(BadChainError):
        made_up(report(key), chain)


def test_certificate_with_wrapped_chip_id() -> None:
    key, chain = certificate(x4=b"\x04\x40" + CHIP)
    made_up(report(key), chain)


def test_issuer_must_be_allowed_to_issue() -> None:
    vendor = Authority(intermediate_is_ca=False)
    key, chain = vendor.leaf("SEV-VCEK", {})
    with pytest.raises(BadChainError, match="may not issue"):
        verify(report(key), chain, roots=vendor.roots)


def test_signature_of_another_key_and_unused_bytes() -> None:
    key, chain = certificate()
    other, _ = certificate()
    with pytest.raises(BadSignatureError):
        made_up(report(other), chain)
    for place in (SIGNED + 48, SIGNED + 71, SIGNED + 120, SIGNED + 144, REPORT_SIZE - 1):
        raw = bytearray(report(key))
        raw[place] = 1
        with pytest.raises(BadSignatureError):
            made_up(bytes(raw), chain)
    zero = bytearray(report(key))
    zero[SIGNED : SIGNED + 144] = bytes(144)
    with pytest.raises(BadSignatureError):
        made_up(bytes(zero), chain)


def test_not_a_certificate() -> None:
    with pytest.raises(BadChainError):
        load_der(b"\x30\x00")
