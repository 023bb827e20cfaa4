"""The appraisal policy: what it refuses, one reason at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from sealtune.attest import AppraisalPolicy, Claims, Kind, KindPolicy
from sealtune.attest.errors import (
    AdvisoryError,
    DebugEnclaveError,
    KindNotAllowedError,
    PlatformNotAllowedError,
    SvnTooLowError,
    TcbOutOfDateError,
    UnknownMeasurementError,
    UnknownSignerError,
)

CLAIMS = Claims(
    kind=Kind.TDX,
    confidential=True,
    measurement="aa",
    signer="bb",
    svn=2,
    tcb_status="SWHardeningNeeded",
    advisories=("INTEL-SA-1", "INTEL-SA-2"),
    debug=False,
    report_data="cc" * 64,
    platform="dd",
    verified_at=datetime(2026, 1, 1, tzinfo=UTC),
)
GOOD: dict[str, Any] = {
    "measurements": ("00", "aa"),
    "signers": ("bb",),
    "min_svn": 2,
    "tcb_statuses": ("UpToDate", "SWHardeningNeeded"),
    "advisories": ("INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3"),
    "platforms": ("dd",),
}


def test_accepted() -> None:
    KindPolicy(**GOOD).check(CLAIMS)
    KindPolicy(measurements="any", tcb_statuses=("SWHardeningNeeded",), advisories="any").check(
        CLAIMS
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"measurements": ("00",)}, UnknownMeasurementError),
        ({"measurements": ()}, UnknownMeasurementError),
        ({"signers": ("aa",)}, UnknownSignerError),
        ({"min_svn": 3}, SvnTooLowError),
        ({"tcb_statuses": ("UpToDate",)}, TcbOutOfDateError),
        ({"tcb_statuses": ()}, TcbOutOfDateError),
        ({"advisories": ("INTEL-SA-1",)}, AdvisoryError),
        ({"platforms": ("aa",)}, PlatformNotAllowedError),
    ],
)
def test_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        KindPolicy(**{**GOOD, **change}).check(CLAIMS)


@pytest.mark.parametrize("status", ["Revoked", "Nonsense", "uptodate", ""])
def test_statuses_that_no_policy_can_name(status: str) -> None:
    with pytest.raises(ValidationError, match="tcb_statuses"):
        KindPolicy(measurements="any", tcb_statuses=("UpToDate", status))
    # and one that was never validated accepts no revoked platform either
    loose = KindPolicy.model_construct(**{**GOOD, "tcb_statuses": ("Revoked",)})
    with pytest.raises(TcbOutOfDateError):
        loose.check(CLAIMS.model_copy(update={"tcb_status": "Revoked"}))


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (Kind.TDX, {"signers": ("aa",)}, "signers has no meaning for tdx"),
        (Kind.TDX, {"signers": ("aa",), "min_svn": 1}, "min_svn has no meaning for tdx"),
        (Kind.TDX, {"product_ids": (1,)}, "product_ids has no meaning for tdx"),
        (Kind.SGX, {"signers": ("aa",), "min_svn": 1}, "needs product_ids"),
        (Kind.SGX, {"td_modules": ("aa",)}, "td_modules has no meaning"),
        (Kind.SGX, {"min_firmware": {"driver": "1"}}, "min_firmware has no meaning"),
        (Kind.SEV_SNP, {"min_tcb_evaluation": 1}, "min_tcb_evaluation has no meaning"),
        (Kind.NVIDIA_GPU, {}, "min_firmware of driver and vbios"),
        (Kind.NVIDIA_GPU, {"min_firmware": {"driver": "1"}}, "min_firmware of driver and vbios"),
        (Kind.PARTICIPANT, {"signers": ("aa",), "min_svn": 1}, "min_svn has no meaning"),
        (Kind.SIMULATED, {"td_modules": ()}, "td_modules has no meaning"),
        (Kind.SIMULATED, {"insecure_test_root": "ab" * 32}, "insecure_test_root has no meaning"),
        (Kind.PARTICIPANT, {"insecure_test_root": "ab" * 32}, "insecure_test_root has no meaning"),
    ],
)
def test_requirements_that_nothing_would_enforce(
    kind: Kind, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        AppraisalPolicy(kinds={kind: KindPolicy(**{"measurements": "any", **settings})})


def test_a_listed_measurement_pins_the_firmware_of_a_gpu() -> None:
    AppraisalPolicy(kinds={Kind.NVIDIA_GPU: KindPolicy(measurements=("aa",))})


def test_security_version_needs_its_signer() -> None:
    with pytest.raises(ValidationError, match="min_svn says nothing without signers"):
        KindPolicy(measurements="any", min_svn=1)
    kinds = {Kind.SGX: KindPolicy(measurements="any", signers=("aa",), min_svn=1, product_ids=(3,))}
    AppraisalPolicy(kinds=kinds)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"product_ids": (3,)}, None),
        ({"product_ids": (4,)}, UnknownSignerError),
        ({"td_modules": ("ee",)}, None),
        ({"td_modules": ("ef",)}, TcbOutOfDateError),
        ({"min_firmware": {"driver": "550.90.07", "vbios": "96.00.9f.00.01"}}, None),
        ({"min_firmware": {"driver": "550.90.7"}}, None),  # the same number
        ({"min_firmware": {"driver": "550.89.999"}}, None),
        ({"min_firmware": {"driver": "550.90.08"}}, TcbOutOfDateError),
        ({"min_firmware": {"driver": "550.90.07.1"}}, TcbOutOfDateError),
        ({"min_firmware": {"vbios": "96.00.a0"}}, TcbOutOfDateError),
        ({"min_firmware": {"vbios": "96.00.99.00.01"}}, None),
    ],
)
def test_product_module_and_firmware(
    settings: dict[str, Any], error: type[Exception] | None
) -> None:
    firmware = {"driver": "550.90.07", "vbios": "96.00.9f.00.01"}
    claims = CLAIMS.model_copy(update={"product_id": 3, "td_module": "ee", "firmware": firmware})
    accepted = KindPolicy(**{**GOOD, **settings})
    if error is None:
        accepted.check(claims)
        return
    with pytest.raises(error):
        accepted.check(claims)


def test_firmware_that_states_no_version_is_below_every_minimum() -> None:
    accepted = KindPolicy(**{**GOOD, "min_firmware": {"driver": "0"}})
    for stated in ({}, {"driver": ""}, {"driver": "5x"}, {"driver": "9" * 5000}):
        with pytest.raises(TcbOutOfDateError):
            accepted.check(CLAIMS.model_copy(update={"firmware": stated}))
    for version in ("55a", "", "1.", "-1", "1" * 5):
        with pytest.raises(ValidationError):
            KindPolicy(measurements="any", min_firmware={"driver": version})


def test_debug_is_refused_by_every_policy() -> None:
    loosest = KindPolicy(measurements="any", tcb_statuses=("SWHardeningNeeded",), advisories="any")
    with pytest.raises(DebugEnclaveError):
        loosest.check(CLAIMS.model_copy(update={"debug": True}))


def test_measurements_have_no_default() -> None:
    with pytest.raises(ValidationError, match="measurements"):
        KindPolicy()  # type: ignore[call-arg]


def test_hex_is_normalised_and_checked() -> None:
    assert KindPolicy(measurements=("AABB",)).measurements == ("aabb",)
    for bad in ("abc", "xy", ""):
        with pytest.raises(ValidationError):
            KindPolicy(measurements=(bad,))


@pytest.mark.parametrize(
    ("name", "bits"), [("min_svn", 32), ("min_tcb_evaluation", 32), ("product_ids", 16)]
)
def test_numbers_have_the_size_that_hardware_gives_them(name: str, bits: int) -> None:
    def make(value: int) -> KindPolicy:
        setting = (value,) if name == "product_ids" else value
        return KindPolicy(**{**GOOD, name: setting})

    for fine in (0, 2**bits - 1):
        make(fine)
    for wrong in (-1, 2**bits):
        with pytest.raises(ValidationError):
            make(wrong)


def test_json_round_trip_and_unknown_keys() -> None:
    policy = AppraisalPolicy(kinds={Kind.SIMULATED: KindPolicy(**GOOD)})
    assert AppraisalPolicy.model_validate_json(policy.model_dump_json()) == policy
    with pytest.raises(ValidationError):
        AppraisalPolicy.model_validate({"kinds": {}, "debug_ok": True})
    with pytest.raises(ValidationError):
        AppraisalPolicy.model_validate({"kinds": {"sgx3": {"measurements": "any"}}})


def test_unnamed_kind() -> None:
    policy = AppraisalPolicy(kinds={})
    with pytest.raises(KindNotAllowedError, match="accepted: nothing"):
        policy.for_kind(Kind.SGX)


@pytest.mark.parametrize("root", ["", "ab" * 31, "ab" * 33, "any", "zz" * 32])
def test_a_test_root_is_named_by_its_digest(root: str) -> None:
    with pytest.raises(ValidationError, match="insecure_test_root"):
        KindPolicy(measurements=("aa",), insecure_test_root=root)
