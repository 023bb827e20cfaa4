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


def test_json_round_trip_and_unknown_keys() -> None:
    policy = AppraisalPolicy(kinds={Kind.TDX: KindPolicy(**GOOD)})
    assert AppraisalPolicy.model_validate_json(policy.model_dump_json()) == policy
    with pytest.raises(ValidationError):
        AppraisalPolicy.model_validate({"kinds": {}, "debug_ok": True})
    with pytest.raises(ValidationError):
        AppraisalPolicy.model_validate({"kinds": {"sgx3": {"measurements": "any"}}})


def test_unnamed_kind() -> None:
    policy = AppraisalPolicy(kinds={})
    with pytest.raises(KindNotAllowedError, match="accepted: nothing"):
        policy.for_kind(Kind.SGX)
