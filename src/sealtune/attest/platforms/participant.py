"""A participant's signature in the place of evidence: it says who somebody is, and nothing of what
runs there.

In a split job the sites have no TEE. The server enclave still has to know whose data it takes, so a
site answers its challenge with a signature of the organisation's key in the signed manifest, over
the same 64 bytes that evidence is made over. No claim of confidentiality follows from it.

Format, exactly 164 bytes:

    magic "PKS1" | report data 64 | key 32 | signature 64 over context and everything before it

Trust domain: data owner (attester), server enclave (verifier).
"""

from __future__ import annotations

import struct
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealtune.attest.errors import (
    AttesterUnavailableError,
    BadSignatureError,
    MalformedEvidenceError,
    TrailingBytesError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.evidence import REPORT_DATA_SIZE, Claims, Evidence, Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy

BODY = struct.Struct("<4s64s32s")
MAGIC = b"PKS1"
SIZE = BODY.size + 64
CONTEXT = b"sealtune participant signature v1\0"
_STATUS = "Signed"


class ParticipantAttester:
    """Signs report data with an organisation's key.

    Args:
        key: the key whose public half stands in the manifest.
    """

    kind = Kind.PARTICIPANT

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def collect(self, report_data: bytes) -> Evidence:
        """A signature over 64 bytes of report data."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterUnavailableError(f"report data of {len(report_data)} bytes, not 64")
        body = BODY.pack(MAGIC, report_data, self._key.public_key().public_bytes_raw())
        return Evidence(Kind.PARTICIPANT, body + self._key.sign(CONTEXT + body))

    def collect_gpu(self, nonce: bytes) -> bytes:
        """A signature vouches for no GPU."""
        return b""


class ParticipantVerifier:
    """Accepts the signature of a key that the policy names as signer."""

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        if evidence.kind is not Kind.PARTICIPANT:
            raise MalformedEvidenceError(f"{evidence.kind} evidence where a signature is expected")
        accepted = policy.for_kind(Kind.PARTICIPANT)
        if accepted.signers == "any":
            raise UnknownSignerError("a policy for participants must name their keys")
        if evidence.endorsements or evidence.gpu:
            raise TrailingBytesError("a participant's signature has no endorsements and no GPU")
        data = evidence.data
        if len(data) != SIZE:
            raise MalformedEvidenceError(f"a participant's signature has {SIZE} bytes")
        body, signature = data[: BODY.size], data[BODY.size :]
        magic, bound, key = BODY.unpack(body)
        if magic != MAGIC:
            raise MalformedEvidenceError("not a participant's signature: wrong magic")
        if bound != report_data:
            raise WrongReportDataError("the signature is for another nonce, job, role or key")
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, CONTEXT + body)
        except (InvalidSignature, ValueError) as error:
            raise BadSignatureError("the participant's signature is wrong") from error
        claims = Claims(
            kind=Kind.PARTICIPANT,
            confidential=False,
            measurement="",
            signer=key.hex(),
            tcb_status=_STATUS,
            debug=False,
            report_data=bound.hex(),
            verified_at=at,
        )
        accepted.check(claims)
        return claims


def participant_policy(key: str) -> AppraisalPolicy:
    """A policy that accepts one organisation's key (64 hex digits), and nothing else."""
    accepted = KindPolicy(measurements="any", signers=(key,), tcb_statuses=(_STATUS,))
    return AppraisalPolicy(kinds={Kind.PARTICIPANT: accepted})
