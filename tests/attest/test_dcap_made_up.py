"""SGX and TDX quotes of a made-up Intel: each check of the verifier, tried by itself."""

from __future__ import annotations

import hashlib
import types
from typing import Any

import pytest

from sealtune.attest import Evidence, Kind
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
    UnknownMeasurementError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.platforms.intel import dcap
from sealtune.attest.platforms.intel.dcap import INTEL_ROOTS, DcapVerifier, td_measurement
from sealtune.attest.platforms.intel.quote import parse_quote
from sealtune.attest.policy import INTEL_STATUSES
from sealtune.errors import AttestationError
from tests.attest import intel
from tests.attest.intel import PCK_SERIAL, Tables, quote, sgx_body, td_body, verify
from tests.attest.public import SERVER, day, flips, policy

# The library that checks quotes is a dependency of its own.
pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")

TD = quote(td_body())
ENCLAVE = quote(sgx_body(), version=3)


def sgx(raw: bytes = ENCLAVE, tables: Tables | None = None, **settings: Any) -> Any:
    return verify(raw, tables, kind=Kind.SGX, **settings)


# ---- accepted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "large"), [(4, False), (5, False), (5, True)], ids=["4", "5", "5, TDX 1.5"]
)
def test_td(version: int, large: bool) -> None:
    raw = quote(td_body(large=large), version=version)
    claims = verify(raw)
    assert (claims.kind, claims.confidential, claims.debug) == (Kind.TDX, True, False)
    assert claims.tcb_status == "UpToDate"
    assert claims.features == SERVER
    assert claims.measurement == td_measurement(parse_quote(raw)).hex()
    assert claims.report_data == intel.REPORT_DATA.hex()
    assert claims.platform == intel.PPID.hex()
    assert claims.td_module == "5e" * 48
    assert (claims.signer, claims.svn, claims.product_id) == ("", 0, 0)  # a TD has none
    assert claims.details["MRTD"] == "01" * 48
    assert claims.details["RTMR3"] == "08" * 48
    assert claims.details["FMSPC"] == intel.FMSPC.hex()


def test_enclave() -> None:
    claims = sgx()
    assert claims.measurement == "ee" * 32
    assert claims.signer == "55" * 32
    assert (claims.product_id, claims.svn) == (3, 2)


@pytest.mark.parametrize("offset", [136 + 48 * i for i in range(8)])
def test_measurement_of_a_td_covers_every_register(offset: int) -> None:
    honest = verify(quote(td_body(large=True), version=5)).measurement
    body = td_body(large=True, change={offset + 47: b"\xfe"})
    with pytest.raises(UnknownMeasurementError):
        verify(quote(body, version=5), measurements=(honest,))
    verify(quote(td_body(large=True), version=5), measurements=(honest,))


def test_measurement_of_a_td_is_this_digest() -> None:
    """MRTD to RTMR 3 in the order of the report, then MRSERVICETD, zeros in TDX 1.0."""
    registers = b"".join(bytes((index,)) * 48 for index in (1, 2, 3, 4, 5, 6, 7, 8, 0))
    digest = hashlib.sha384(b"sealtune/td/v1" + registers).hexdigest()
    for version, large in ((4, False), (5, False), (5, True)):
        assert verify(quote(td_body(large=large), version=version)).measurement == digest


class PanicException(BaseException):
    """What a panic of Rust code becomes in Python."""


@pytest.mark.parametrize("error", [PanicException, KeyboardInterrupt])
def test_library_that_panics(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote must not take an enclave down; a person still can."""

    def fail(*_: object) -> None:
        raise error

    real = dcap._library()
    fake = types.SimpleNamespace(
        QuoteCollateralV3=real.QuoteCollateralV3,
        QuotePolicy=real.QuotePolicy,
        QuoteVerifier=lambda root: types.SimpleNamespace(verify_with_policy=fail),
    )
    monkeypatch.setattr(dcap, "_library", lambda: fake)
    with pytest.raises(MalformedEvidenceError if error is PanicException else KeyboardInterrupt):
        verify(TD)


# ---- what no policy accepts -------------------------------------------------------------------

TD_FINE = {16, 27, 28, 30, 31, 63}


@pytest.mark.parametrize("number", range(64))
def test_every_attribute_of_a_td(number: int) -> None:
    raw = quote(td_body(attributes=intel.TD_SEPT_VE | 1 << number))
    if number in TD_FINE:
        verify(raw)
        return
    said = "debug" if number < 8 else "migrated" if number == 29 else "not accepted"
    with pytest.raises(DebugEnclaveError if number < 8 else GuestPolicyError, match=said):
        verify(raw)


@pytest.mark.parametrize("number", range(64))
def test_every_attribute_of_an_enclave(number: int) -> None:
    raw = quote(sgx_body(attributes=0x5 | 1 << number), version=3)
    if number in (0, 2, 6, 7, 10):
        sgx(raw)
        return
    with pytest.raises(DebugEnclaveError if number == 1 else GuestPolicyError):
        sgx(raw)


@pytest.mark.parametrize(
    "body",
    [
        sgx_body(config=b"\1"),
        sgx_body(config=bytes(63) + b"\1"),
        sgx_body(config_svn=1),
        sgx_body(config_svn=256),
    ],
)
def test_enclave_that_was_given_a_configuration(body: bytes) -> None:
    """CONFIGID steers what a signed loader does; MRENCLAVE stays the same."""
    with pytest.raises(GuestPolicyError, match="CONFIGID"):
        sgx(quote(body, version=3))


@pytest.mark.parametrize("offset", [64, 111, 112, 119])
def test_module_that_is_not_intels(offset: int) -> None:
    with pytest.raises(PlatformNotAllowedError, match="TDX module is not one of Intel's"):
        verify(quote(td_body(change={offset: b"\1"})))


def test_host_that_can_raise_exceptions_in_the_td() -> None:
    with pytest.raises(GuestPolicyError, match="SEPT_VE_DISABLE"):
        verify(quote(td_body(attributes=0)))


def test_service_td() -> None:
    """It could take the TD elsewhere; the measurement covers it all the same."""
    raw = quote(td_body(large=True, change={647: b"\1"}), version=5)
    with pytest.raises(GuestPolicyError):
        verify(raw)
    without = quote(td_body(large=True), version=5)
    assert td_measurement(parse_quote(raw)) != td_measurement(parse_quote(without))


# ---- Intel's verdict --------------------------------------------------------------------------


# These two are told of a running TD, never stated in a table.
STATED = [status for status in INTEL_STATUSES if not status.startswith("TDRelaunch")]


@pytest.mark.parametrize("status", STATED)
def test_every_status_must_be_named(status: str) -> None:
    """`Revoked` cannot be: see test_policy."""
    for kind, raw in ((Kind.TDX, TD), (Kind.SGX, ENCLAVE)):
        tables = Tables(kind, status)
        others = tuple(other for other in INTEL_STATUSES if other != status)
        with pytest.raises(TcbOutOfDateError):
            verify(raw, tables, kind=kind, tcb_statuses=others if status != "UpToDate" else ())
        claims = verify(raw, tables, kind=kind, tcb_statuses=(status,))
        assert claims.tcb_status == status


@pytest.mark.parametrize("where", ["platform", "quoting enclave"])
def test_revoked_is_accepted_by_no_policy(where: str) -> None:
    tables = Tables(status="Revoked") if where == "platform" else Tables(qe_status="Revoked")
    with pytest.raises(TcbOutOfDateError, match="Revoked"):
        verify(TD, tables, tcb_statuses=INTEL_STATUSES, advisories="any")


def test_advisories() -> None:
    tables = Tables(status="SWHardeningNeeded", advisories=("INTEL-SA-1", "INTEL-SA-2"))
    named = {"tcb_statuses": ("SWHardeningNeeded",)}
    with pytest.raises(AdvisoryError, match="INTEL-SA-2"):
        verify(TD, tables, advisories=("INTEL-SA-1",), **named)
    claims = verify(TD, tables, advisories=("INTEL-SA-1", "INTEL-SA-2"), **named)
    assert claims.advisories == ("INTEL-SA-1", "INTEL-SA-2")
    verify(TD, tables, advisories="any", **named)


def test_old_quoting_enclave() -> None:
    with pytest.raises(TcbOutOfDateError):
        verify(TD, Tables(qe_status="OutOfDate"))
    with pytest.raises(AttestationError):
        verify(quote(td_body(), qe_svn=3))


@pytest.mark.parametrize("place", [0, 2])
def test_td_below_all_tcb_levels(place: int) -> None:
    """The module's version, and one that Intel's table has a level for."""
    lower = td_body(change={place: bytes((intel.TEE_TCB_SVN[place] - 4 if place == 0 else 2,))})
    with pytest.raises(TcbOutOfDateError):
        verify(quote(lower))


def test_evaluation_number() -> None:
    verify(TD, min_tcb_evaluation=17)
    with pytest.raises(TcbOutOfDateError, match="TCB eval data number"):
        verify(TD, min_tcb_evaluation=18)


@pytest.mark.parametrize("feature", SERVER)
def test_features_of_the_machine(feature: str) -> None:
    others = tuple(other for other in SERVER if other != feature)
    with pytest.raises(PlatformNotAllowedError):
        verify(TD, allow=others)
    order = ("dynamic-platform", "cached-keys", "smt")
    flags = tuple(name != feature for name in order)
    certificates = intel.chain(intel.pck(flags=flags), intel.PLATFORM_CA, intel.ROOT)
    raw = quote(td_body(), certificates=certificates)
    assert verify(raw, allow=others).features == others


# ---- trust ------------------------------------------------------------------------------------


def test_made_up_root_counts_for_the_test_alone() -> None:
    with pytest.raises(BadChainError, match="pinned root"):
        verify(TD, roots=INTEL_ROOTS)


def test_revoked_platform_certificate() -> None:
    with pytest.raises(BadChainError):
        verify(TD, Tables(revoked=(PCK_SERIAL,)))
    verify(TD, Tables(revoked=(PCK_SERIAL + 1,)))


@pytest.mark.parametrize("at", ["2025-05-31", "2025-07-02", "2023-12-31", "2031-01-01"])
def test_time(at: str) -> None:
    with pytest.raises(StaleCollateralError):
        verify(TD, at=at)


def test_signatures() -> None:
    with pytest.raises(BadSignatureError):
        verify(quote(td_body(), signer="another key"))
    tables = Tables().encode()
    for name in ("tcb_info_signature", "qe_identity_signature"):
        at = tables.index(name.encode()) + len(name) + 8
        other = b"0" if tables[at : at + 1] != b"0" else b"1"
        with pytest.raises(BadSignatureError):
            verify(TD, collateral=tables[:at] + other + tables[at + 1 :])


@pytest.mark.parametrize("kind", [Kind.TDX, Kind.SGX])
def test_one_bit_at_300_places(kind: Kind) -> None:
    raw = TD if kind is Kind.TDX else ENCLAVE
    tables = Tables(kind).encode()
    for changed in flips(raw, 300, seed=11):
        with pytest.raises(AttestationError):
            verify(changed, kind=kind, collateral=tables)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"collateral": b""}, MissingCollateralError),
        ({"collateral": b"{}"}, MissingCollateralError),
        ({"collateral": b"\xff"}, MissingCollateralError),
        ({"collateral": b" " * ((1 << 20) + 1)}, OversizeEvidenceError),
        ({"tables": Tables(change={"fmspc": "00" * 6})}, MissingCollateralError),
        ({"tables": Tables(Kind.SGX)}, MissingCollateralError),
        ({"report_data": bytes(64)}, WrongReportDataError),
        ({"measurements": ("00" * 48,)}, UnknownMeasurementError),
        ({"platforms": ("00" * 16,)}, PlatformNotAllowedError),
        ({"td_modules": ("5f" * 48,)}, TcbOutOfDateError),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(TD, **change)


def test_collateral_beside_the_evidence_replaces_what_came_with_it() -> None:
    verifier = DcapVerifier(Kind.TDX, Tables(status="OutOfDate").encode(), roots=intel.ROOTS)
    with pytest.raises(TcbOutOfDateError):
        verifier.verify(
            Evidence(Kind.TDX, TD, Tables().encode()),
            report_data=intel.REPORT_DATA,
            policy=policy(Kind.TDX, allow=SERVER),
            at=day(intel.AT),
        )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"measurements": ("00" * 32,)}, UnknownMeasurementError),
        ({"signers": ("00" * 32,)}, UnknownSignerError),
        ({"product_ids": (2,)}, UnknownSignerError),
        ({"min_svn": 3, "signers": ("55" * 32,), "product_ids": (3,)}, SvnTooLowError),
        ({"report_data": bytes(64)}, WrongReportDataError),
    ],
)
def test_enclave_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        sgx(**change)
    sgx(min_svn=2, signers=("55" * 32,), product_ids=(3,), measurements=("ee" * 32,))


def test_kinds() -> None:
    for kind, raw, sent in (
        (Kind.SGX, TD, Kind.SGX),
        (Kind.TDX, ENCLAVE, Kind.TDX),
        (Kind.TDX, TD, Kind.SGX),
    ):
        with pytest.raises(MalformedEvidenceError, match="was expected"):
            DcapVerifier(kind, roots=intel.ROOTS).verify(
                Evidence(sent, raw, Tables(kind).encode()),
                report_data=intel.REPORT_DATA,
                policy=policy(kind, allow=SERVER),
                at=day(intel.AT),
            )
    with pytest.raises(MalformedEvidenceError, match="not a DCAP"):
        DcapVerifier(Kind.SEV_SNP)
