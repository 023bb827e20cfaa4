"""SEV-SNP reports of real machines."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sealtune.attest import Claims, Evidence, Kind
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
from sealtune.attest.platforms.certs import load_pem_bundle, verify_chain
from sealtune.attest.platforms.sev_snp.report import AMD_ROOTS, REPORT_SIZE, SnpVerifier, product
from sealtune.errors import AttestationError
from tests.attest import amd
from tests.attest.public import day, flips, needs_fixtures, pem, policy, read

ID_KEY = (
    "0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca49"
    "1ecdd7f336dc28a6e0b2bb57af7a44a3"
)


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
        policy=policy(Kind.SEV_SNP, **{**amd.ACCEPTING, **settings}),
        at=day(at),
    )


def least(product: str = "Milan", **change: int) -> dict[str, Any]:
    """Minima that the recorded Milan reports meet, and some change."""
    return {"min_tcb": {product: {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115} | change}}


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
    assert claims.details["product"] == "Milan"
    assert claims.details["signed by"] == "VCEK"
    assert claims.measurement == report[0x90:0xC0].hex()
    assert claims.platform == report[0x1A0:0x1E0].hex()
    assert claims.features == ("smt",)
    assert claims.tcb_status == "Unchecked"
    assert verify(report, chain, snp=least()).tcb_status == "MinimumMet"


@needs_fixtures
def test_genoa_accepted() -> None:
    recorded = json.loads(read("trustee/az-snp-vtpm/evidence-genoa.json"))
    report = bytes(recorded["report"])[32 : 32 + REPORT_SIZE]
    chain = read("trustee/az-snp-vtpm/vcek-genoa.pem") + read("go-sev-guest/ask_ark_genoa.pem")
    claims = verify(report, chain)
    assert claims.details["product"] == "Genoa"
    assert claims.features == ("smt",)  # off in the machine, but the guest would take it
    assert claims.snp is not None
    assert claims.snp.platform == ("ecc", "alias-check")
    with pytest.raises(BadChainError):
        verify(
            report,
            read("trustee/az-snp-vtpm/vcek-genoa.pem") + read("go-sev-guest/ask_ark_milan.pem"),
        )


@needs_fixtures
def test_vlek_accepted_below_a_paravisor() -> None:
    report, chain = milan("vlek")
    below = {"max_vmpl": 1, "vlek_providers": ("CN=cc-us-east-2.amazonaws.com",)}
    claims = verify(report, chain, snp=below)
    assert claims.details["signed by"] == "VLEK of CN=cc-us-east-2.amazonaws.com"
    assert claims.platform == ""
    with pytest.raises(GuestPolicyError, match="VMPL 1"):
        verify(report, chain, snp=below | {"max_vmpl": 0})
    for named in ((), ("CN=cc-us-east-1.amazonaws.com",)):
        with pytest.raises(BadChainError, match="VLEK of 'CN=cc-us-east-2"):
            verify(report, chain, snp=below | {"vlek_providers": named})
    with pytest.raises(StaleCollateralError):
        verify(report, chain, snp=below, at="2026-02-01")


@needs_fixtures
def test_turin_chain() -> None:
    chain = pem("virtee-sev/vcek_turin.der") + read("virtee-sev/cert_chain_turin")
    parsed = load_pem_bundle(chain)
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
                policy=policy(Kind.SEV_SNP, **amd.ACCEPTING),
                at=day("2025-06-01"),
            )


@needs_fixtures
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"report_data": bytes(64)}, WrongReportDataError),
        ({"measurements": ("00" * 48,)}, UnknownMeasurementError),
        ({"signers": ("00" * 48,)}, UnknownSignerError),
        ({"min_svn": 100, "signers": (ID_KEY,)}, SvnTooLowError),
        ({"snp": least(microcode=116)}, TcbOutOfDateError),
        ({"snp": least("Genoa")}, TcbOutOfDateError),
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
def test_certificates_missing_or_in_any_order() -> None:
    report, chain = milan("trustee")
    with pytest.raises(MissingCollateralError):
        verify(report, b"")
    leaf, ask, ark = (
        part + b"-----END CERTIFICATE-----\n"
        for part in chain.split(b"-----END CERTIFICATE-----\n")[:3]
    )
    for wrong in (leaf + ask, leaf + ark, leaf, ask + ark, ark, leaf + ask[:-40], b"no"):
        with pytest.raises(BadChainError):
            verify(report, wrong)
    for fine in (
        ark + ask + leaf,
        leaf + ark + ask,
        b"Bag Attributes\r\n" + ask + leaf + ark + ark,
    ):
        verify(report, fine)
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
