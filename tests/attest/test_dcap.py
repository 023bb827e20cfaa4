"""SGX and TDX quotes of real machines, at times at which their collateral was valid."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest

from sealtune.attest import Claims, Evidence, Kind
from sealtune.attest.errors import (
    AdvisoryError,
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
from sealtune.attest.platforms.certs import load_pem_chain
from sealtune.attest.platforms.intel.dcap import DcapVerifier, td_measurement, td_registers
from sealtune.attest.platforms.intel.quote import MAX_QUOTE, parse_quote, trim_padding
from sealtune.errors import AttestationError
from tests.attest.public import SERVER, day, flips, needs_fixtures, policy, read

pytestmark = needs_fixtures
# The library that checks quotes is a dependency of its own.
pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")

SGX = "dcap-qvl/sgx_quote"
TDX = "dcap-qvl/tdx_quote"
TDX5 = "go-tdx-guest/quote_v5_sample.dat"
OUTDATED = "dcap-qvl/tdx_quote_outdated"
COLLATERAL = {
    SGX: "dcap-qvl/sgx_quote_collateral.json",
    TDX: "dcap-qvl/tdx_quote_collateral.json",
    TDX5: "dcap-qvl/tdx_quote_outdated_collateral.json",
    OUTDATED: "dcap-qvl/tdx_quote_outdated_collateral.json",
}
VALID = {SGX: "2025-07-01", TDX: "2025-07-01", TDX5: "2026-03-01", OUTDATED: "2026-03-01"}
SETTINGS: dict[str, dict[str, Any]] = {
    SGX: {
        "tcb_statuses": ("ConfigurationAndSWHardeningNeeded",),
        "advisories": ("INTEL-SA-00289", "INTEL-SA-00615"),
    },
    TDX: {"allow": SERVER},
    TDX5: {"allow": SERVER},
    OUTDATED: {"allow": SERVER},
}
SGX_SIGNER = "815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6"
ACCEPTED = (SGX, TDX, TDX5)


def kind_of(name: str) -> Kind:
    return Kind.SGX if name == SGX else Kind.TDX


def verify(
    name: str,
    *,
    raw: bytes | None = None,
    collateral: bytes | None = None,
    at: str | None = None,
    report_data: bytes | None = None,
    **settings: Any,
) -> Claims:
    quote = trim_padding(read(name))
    evidence = Evidence(
        kind_of(name),
        quote if raw is None else raw,
        read(COLLATERAL[name]) if collateral is None else collateral,
    )
    return DcapVerifier(kind_of(name)).verify(
        evidence,
        report_data=parse_quote(quote).report_data if report_data is None else report_data,
        policy=policy(kind_of(name), **{**SETTINGS[name], **settings}),
        at=day(at or VALID[name]),
    )


def test_sgx_accepted() -> None:
    claims = verify(SGX)
    assert claims.kind is Kind.SGX
    assert claims.confidential
    assert not claims.debug
    assert claims.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert claims.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert claims.measurement.startswith("33d8736db756ed4997e04ba358d27833")
    assert claims.details["FMSPC"] == "00a067110000"


@pytest.mark.parametrize("name", [TDX, TDX5])
def test_tdx_accepted(name: str) -> None:
    claims = verify(name)
    assert claims.kind is Kind.TDX
    assert claims.confidential
    assert claims.tcb_status == "UpToDate"
    assert claims.features == SERVER
    quote = parse_quote(trim_padding(read(name)))
    assert claims.measurement == td_measurement(quote).hex()
    assert claims.details["MRTD"] == td_registers(quote)["MRTD"].hex()


def test_measurement_of_a_td_covers_every_register() -> None:
    raw = trim_padding(read(TDX5))
    quote = parse_quote(raw)
    start = raw.index(quote.body)
    for offset in [136 + 48 * i for i in range(8)] + [600]:
        changed = bytearray(raw)
        changed[start + offset] ^= 1
        assert td_measurement(parse_quote(bytes(changed))) != td_measurement(quote)


@pytest.mark.parametrize("name", ACCEPTED)
def test_one_bit_at_200_places(name: str) -> None:
    accepted = 0
    for raw in flips(trim_padding(read(name)), 200, seed=1):
        try:
            verify(name, raw=raw)
            accepted += 1
        except AttestationError:
            pass
    assert accepted == 0


@pytest.mark.parametrize("name", [SGX, TDX])
def test_altered_collateral_never_changes_the_verdict(name: str) -> None:
    """Spaces in a PEM text may flip unseen; what is claimed may not."""
    honest = verify(name)
    for raw in flips(read(COLLATERAL[name]), 100, seed=2):
        try:
            claims = verify(name, collateral=raw)
        except AttestationError:
            continue
        assert claims == honest


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        (SGX, {"tcb_statuses": ("UpToDate",)}, TcbOutOfDateError),
        (SGX, {"advisories": ("INTEL-SA-00289",)}, AdvisoryError),
        (SGX, {"measurements": ("00" * 32,)}, UnknownMeasurementError),
        (SGX, {"signers": ("00" * 32,)}, UnknownSignerError),
        (SGX, {"min_svn": 60_000, "signers": (SGX_SIGNER,), "product_ids": (0,)}, SvnTooLowError),
        (SGX, {"product_ids": (7,)}, UnknownSignerError),
        (SGX, {"platforms": ("00" * 16,)}, PlatformNotAllowedError),
        (SGX, {"min_tcb_evaluation": 18}, TcbOutOfDateError),
        (TDX, {"td_modules": ("00" * 48,)}, TcbOutOfDateError),
        (TDX, {"allow": ()}, PlatformNotAllowedError),
        (TDX, {"allow": ("smt", "dynamic-platform")}, PlatformNotAllowedError),
        (TDX, {"allow": ("smt", "cached-keys")}, PlatformNotAllowedError),
        (TDX, {"allow": ("dynamic-platform", "cached-keys")}, PlatformNotAllowedError),
        (TDX, {"measurements": ("00" * 48,)}, UnknownMeasurementError),
        (TDX, {"at": "2025-05-01"}, StaleCollateralError),
        (TDX, {"at": "2025-09-01"}, StaleCollateralError),
        (TDX, {"at": "2060-01-01"}, StaleCollateralError),
        (TDX, {"report_data": bytes(64)}, WrongReportDataError),
        (TDX, {"collateral": b""}, MissingCollateralError),
        (TDX, {"collateral": b"{}"}, MissingCollateralError),
        (TDX, {"collateral": b"\xff"}, MissingCollateralError),
        (OUTDATED, {}, TcbOutOfDateError),
    ],
)
def test_refused(name: str, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(name, **change)


def test_collateral_of_another_platform_or_kind() -> None:
    with pytest.raises(MissingCollateralError):
        verify(TDX, collateral=read(COLLATERAL[SGX]))
    with pytest.raises(MissingCollateralError, match="Fmspc"):
        verify(TDX, collateral=read(COLLATERAL[TDX5]), at=VALID[TDX5])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("trustee/tdx/tdx_quote_4.dat", DebugEnclaveError),  # a debug TD
        ("trustee/tdx/occlum_quote.dat", DebugEnclaveError),  # a debug SGX enclave
        ("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", TrailingBytesError),  # text after the quote
        ("trustee/tdx/tdx_quote_6.dat", MissingCollateralError),  # other platform
        ("trustee/tdx/tdx_quote_5.dat", TcbOutOfDateError),  # same platform, older module
        ("dcap-qvl/quote-from-tappd.hex", TcbOutOfDateError),
        ("trustee/az-tdx-vtpm/td-quote.bin", GuestPolicyError),  # no SEPT_VE_DISABLE
        ("go-tdx-guest/cos-113-tdx-quote.dat", MissingCollateralError),
    ],
)
def test_other_recorded_quotes(name: str, error: type[Exception]) -> None:
    raw = trim_padding(read(name))
    kind = Kind.SGX if "occlum" in name else Kind.TDX
    source = TDX if "tappd" in name else TDX5
    report_data = raw[-64:]  # never looked at: these fail before
    with pytest.raises(error):
        DcapVerifier(kind, read(COLLATERAL[source])).verify(
            Evidence(kind, raw),
            report_data=report_data,
            policy=policy(kind, allow=SERVER),
            at=day(VALID[source]),
        )


def test_td_in_which_the_host_can_raise_exceptions() -> None:
    raw = read("go-tdx-guest/tdx_prod_quote_SPR_E4.dat")
    raw = raw[: len(raw) - 39]  # without the text that follows it
    collateral = read("go-tdx-guest/collateral_50806f000000_2023-07.json")
    with pytest.raises(GuestPolicyError, match="SEPT_VE_DISABLE"):
        DcapVerifier(Kind.TDX, collateral).verify(
            Evidence(Kind.TDX, raw),
            report_data=parse_quote(raw).report_data,
            policy=policy(Kind.TDX, allow=SERVER),
            at=day("2023-07-01"),
        )


def test_debug_bit_cannot_be_cleared() -> None:
    raw = bytearray(read("trustee/tdx/tdx_quote_4.dat"))
    raw[48 + 120] &= 0xFE
    collateral = read("go-tdx-guest/collateral_50806f000000_2023-07.json")
    with pytest.raises(AttestationError):
        DcapVerifier(Kind.TDX, collateral).verify(
            Evidence(Kind.TDX, bytes(raw)),
            report_data=parse_quote(bytes(raw)).report_data,
            policy=policy(Kind.TDX, allow=SERVER, tcb_statuses=("UpToDate", "OutOfDate")),
            at=day("2023-07-01"),
        )


def test_trailing_bytes_are_refused_from_peers_and_padding_trimmed_from_files() -> None:
    raw = read(TDX)
    with pytest.raises(TrailingBytesError):
        verify(TDX, raw=raw)
    exact = trim_padding(raw)
    assert raw[len(exact) :] == bytes(len(raw) - len(exact))
    assert trim_padding(exact + b"\0\0x") == exact + b"\0\0x"
    assert trim_padding(b"no quote\0\0") == b"no quote\0\0"


def test_oversize() -> None:
    with pytest.raises(OversizeEvidenceError):
        verify(TDX, raw=bytes(MAX_QUOTE + 1))
    with pytest.raises(OversizeEvidenceError):
        verify(TDX, collateral=bytes((1 << 20) + 1))


def test_kind_must_match() -> None:
    raw = trim_padding(read(TDX))
    with pytest.raises(MalformedEvidenceError):
        DcapVerifier(Kind.SGX).verify(
            Evidence(Kind.SGX, raw),
            report_data=bytes(64),
            policy=policy(Kind.SGX),
            at=day("2025-07-01"),
        )
    with pytest.raises(MalformedEvidenceError):
        DcapVerifier(Kind.SEV_SNP)


def test_certificates_of_another_quote() -> None:
    """A genuine chain, but not the one whose key signed this quote."""
    first, second = trim_padding(read(TDX5)), trim_padding(read(OUTDATED))
    one, two = parse_quote(first), parse_quote(second)
    assert len(one.pck_chain) == len(two.pck_chain)
    assert one.pck_chain != two.pck_chain
    with pytest.raises((BadSignatureError, BadChainError)):
        verify(TDX5, raw=first.replace(one.pck_chain, two.pck_chain))


def test_pem_has_one_spelling() -> None:
    chain = parse_quote(read(SGX)).pck_chain
    assert len(load_pem_chain(chain)) == 3
    for other in (
        chain.replace(b"\n", b" \n", 1),
        b" " + chain,
        chain + b"x",
        chain.replace(b"=\n", b"\n", 1),
        chain + chain + chain,
        b"",
        chain[:-30],
    ):
        with pytest.raises(BadChainError):
            load_pem_chain(other)


def test_messages_that_the_mapping_relies_on() -> None:
    """Each reason in a message of dcap-qvl that these fixtures reach has its own class here."""
    with pytest.raises(StaleCollateralError, match="TCBInfo expired"):
        verify(TDX, at="2025-09-01")
    with pytest.raises(TcbOutOfDateError, match="No matching TCB level"):
        verify(OUTDATED)
    broken = json.loads(read(COLLATERAL[TDX]))
    broken["tcb_info"] = broken["tcb_info"].replace("UpToDate", "UpToDatE")
    with pytest.raises(AttestationError):
        verify(TDX, collateral=json.dumps(broken).encode())
    broken = json.loads(read(COLLATERAL[TDX]))
    broken["tcb_info_signature"] = "00" * 64
    with pytest.raises(BadSignatureError):
        verify(TDX, collateral=json.dumps(broken).encode())


def test_layout_fuzz() -> None:
    draw = random.Random(4)
    seeds = [trim_padding(read(name)) for name in (SGX, TDX, TDX5)]
    for _ in range(5000):
        raw = bytearray(draw.choice(seeds))
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(raw))
            if draw.random() < 0.3:
                del raw[at:]
                break
            raw[at : at + 2] = draw.randbytes(draw.randrange(4))
        with contextlib.suppress(MalformedEvidenceError):
            parse_quote(bytes(raw))
