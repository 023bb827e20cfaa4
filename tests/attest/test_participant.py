"""A participant's signature says who answers, for one challenge, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest import Evidence, Kind
from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import (
    AttesterUnavailableError,
    BadSignatureError,
    KindNotAllowedError,
    MalformedEvidenceError,
    TrailingBytesError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.platforms.participant import (
    SIZE,
    ParticipantAttester,
    ParticipantVerifier,
    participant_policy,
)
from sealtune.attest.platforms.simulated import SimulatedVerifier, simulated_policy
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.errors import AttestationError
from sealtune.job.keys import public_hex

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
BOUND = bytes(range(64))
POLICY = participant_policy(public_hex(KEY.public_key()))


def verify(evidence: Evidence, bound: bytes = BOUND, policy: AppraisalPolicy = POLICY) -> object:
    return ParticipantVerifier().verify(evidence, report_data=bound, policy=policy, at=NOW)


def test_accepted_and_not_confidential() -> None:
    evidence = ParticipantAttester(KEY).collect(BOUND)
    assert Evidence.decode(evidence.encode()) == evidence
    claims = ParticipantVerifier().verify(evidence, report_data=BOUND, policy=POLICY, at=NOW)
    assert claims.signer == public_hex(KEY.public_key())
    assert claims.confidential is False
    assert claims.measurement == ""
    assert ParticipantAttester(KEY).collect_gpu(bytes(32)) == b""


def test_somebody_elses_key_is_refused() -> None:
    with pytest.raises(UnknownSignerError):
        verify(ParticipantAttester(OTHER).collect(BOUND))


def test_a_signature_for_another_challenge_is_refused() -> None:
    evidence = ParticipantAttester(KEY).collect(BOUND)
    with pytest.raises(WrongReportDataError):
        verify(evidence, bound=bytes(64))


def test_every_single_bit_counts() -> None:
    evidence = ParticipantAttester(KEY).collect(BOUND)
    for place in range(8 * SIZE):
        data = bytearray(evidence.data)
        data[place // 8] ^= 1 << place % 8
        with pytest.raises(AttestationError):
            verify(Evidence(Kind.PARTICIPANT, bytes(data)))


def test_another_key_put_over_a_signature_is_refused() -> None:
    data = bytearray(ParticipantAttester(OTHER).collect(BOUND).data)
    data[68:100] = KEY.public_key().public_bytes_raw()
    with pytest.raises(BadSignatureError):
        verify(Evidence(Kind.PARTICIPANT, bytes(data)))


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_other_lengths_are_refused(size: int) -> None:
    data = (ParticipantAttester(KEY).collect(BOUND).data + b"x")[:size]
    with pytest.raises(MalformedEvidenceError):
        verify(Evidence(Kind.PARTICIPANT, data))


def test_nothing_may_come_with_it() -> None:
    data = ParticipantAttester(KEY).collect(BOUND).data
    for extra in ({"endorsements": b"x"}, {"gpu": b"x"}):
        with pytest.raises(TrailingBytesError):
            verify(Evidence(Kind.PARTICIPANT, data, **extra))


def test_a_policy_must_name_the_key() -> None:
    anybody = AppraisalPolicy(kinds={Kind.PARTICIPANT: KindPolicy(measurements="any")})
    with pytest.raises(UnknownSignerError, match="must name their keys"):
        verify(ParticipantAttester(KEY).collect(BOUND), policy=anybody)
    with pytest.raises(KindNotAllowedError):
        verify(ParticipantAttester(KEY).collect(BOUND), policy=simulated_policy(bytes(48)))


def test_it_is_no_evidence_of_a_machine() -> None:
    """No verifier of enclaves takes it, not even where a policy names it."""
    evidence = ParticipantAttester(KEY).collect(BOUND)
    with pytest.raises(MalformedEvidenceError):
        Appraiser().verify(evidence, report_data=BOUND, policy=POLICY, at=NOW)
    both = AppraisalPolicy(kinds={**simulated_policy(bytes(48)).kinds, **POLICY.kinds})
    with pytest.raises(MalformedEvidenceError):
        SimulatedVerifier((bytes(32),)).verify(evidence, report_data=BOUND, policy=both, at=NOW)


def test_evidence_of_another_kind_is_refused() -> None:
    with pytest.raises(MalformedEvidenceError):
        verify(Evidence(Kind.SIMULATED, ParticipantAttester(KEY).collect(BOUND).data))


def test_report_data_has_64_bytes() -> None:
    with pytest.raises(AttesterUnavailableError):
        ParticipantAttester(KEY).collect(b"short")


def test_magic_and_layout_by_hand() -> None:
    """Signed anew after the change, so that nothing else refuses it."""
    data = ParticipantAttester(KEY).collect(BOUND).data
    body = b"PKS1" + BOUND + KEY.public_key().public_bytes_raw()
    assert data == body + KEY.sign(b"sealtune participant signature v1\0" + body)
    other = b"PKS2" + body[4:]
    signed = other + KEY.sign(b"sealtune participant signature v1\0" + other)
    with pytest.raises(MalformedEvidenceError, match="wrong magic"):
        verify(Evidence(Kind.PARTICIPANT, signed))
