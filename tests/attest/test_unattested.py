"""A party without evidence: accepted where none is asked for, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import (
    AttestationError,
    AttesterUnavailableError,
    KindNotAllowedError,
    MalformedEvidenceError,
    TrailingBytesError,
)
from sealtune.attest.evidence import Evidence, Kind
from sealtune.attest.platforms.simulated import simulated_policy
from sealtune.attest.platforms.unattested import (
    UnattestedAttester,
    UnattestedVerifier,
    unattested_policy,
)
from sealtune.attest.policy import AppraisalPolicy

BOUND = bytes(range(64))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def verify(evidence: Evidence, policy: AppraisalPolicy | None = None) -> None:
    verifier = UnattestedVerifier()
    policy = policy or unattested_policy()
    claims = verifier.verify(evidence, report_data=BOUND, policy=policy, at=NOW)
    assert (claims.kind, claims.confidential) == (Kind.UNATTESTED, False)


def test_it_is_what_it_says() -> None:
    verify(Evidence.decode(UnattestedAttester().collect(BOUND).encode()))


@pytest.mark.parametrize(
    ("evidence", "refusal"),
    [
        (Evidence(Kind.SIMULATED, b"x"), MalformedEvidenceError),
        (Evidence(Kind.UNATTESTED, b"x"), TrailingBytesError),
        (Evidence(Kind.UNATTESTED, b"", endorsements=b"x"), TrailingBytesError),
        (Evidence(Kind.UNATTESTED, b"", gpu=b"x"), TrailingBytesError),
    ],
)
def test_bytes_of_evidence_are_refused(evidence: Evidence, refusal: type[AttestationError]) -> None:
    with pytest.raises(refusal):
        verify(evidence)


def test_no_enclave_is_taken_for_one_that_shows_nothing() -> None:
    """A server that leaves its evidence away, where evidence is asked for."""
    nothing, policy = UnattestedAttester().collect(BOUND), simulated_policy(bytes(48))
    with pytest.raises(KindNotAllowedError, match="unattested evidence is not accepted"):
        Appraiser().verify(nothing, report_data=BOUND, policy=policy, at=NOW)
    with pytest.raises(KindNotAllowedError):
        verify(nothing, policy)


def test_no_policy_of_an_enclave_makes_an_appraiser_take_nothing() -> None:
    nothing = UnattestedAttester().collect(BOUND)
    with pytest.raises(MalformedEvidenceError, match="no evidence of a machine"):
        Appraiser().verify(nothing, report_data=BOUND, policy=unattested_policy(), at=NOW)


def test_report_data_has_one_size() -> None:
    with pytest.raises(AttesterUnavailableError, match="63 bytes"):
        UnattestedAttester().collect(BOUND[:-1])
