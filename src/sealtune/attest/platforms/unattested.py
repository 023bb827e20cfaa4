"""The place of evidence where a party shows none: it proves nothing, and says so.

Under secure aggregation no party has a TEE, and the server is not named in the manifest. Its side
of the handshake is empty. The channel then keeps listeners out, and shows a site nothing of who is
at the other end; sites treat whoever it is as a server that does as it likes (``secure_sum``).

Trust domain: data owner (verifier), server operator (attester).
"""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.attest.errors import (
    AttesterUnavailableError,
    MalformedEvidenceError,
    TrailingBytesError,
)
from sealtune.attest.evidence import REPORT_DATA_SIZE, Claims, Evidence, Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy

_STATUS = "Unchecked"


class UnattestedAttester:
    """Shows nothing."""

    kind = Kind.UNATTESTED

    def collect(self, report_data: bytes) -> Evidence:
        """No evidence, over 64 bytes of report data."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterUnavailableError(f"report data of {len(report_data)} bytes, not 64")
        return Evidence(Kind.UNATTESTED, b"")

    def collect_gpu(self, nonce: bytes) -> bytes:
        """Nor of a GPU."""
        return b""


class UnattestedVerifier:
    """Accepts a party that shows nothing, and no other: evidence here is a mistake."""

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        accepted = policy.for_kind(Kind.UNATTESTED)
        if evidence.kind is not Kind.UNATTESTED:
            raise MalformedEvidenceError(f"{evidence.kind} evidence where none is expected")
        if evidence.data or evidence.endorsements or evidence.gpu:
            raise TrailingBytesError("a party that shows no evidence sends bytes of some")
        claims = Claims(
            kind=Kind.UNATTESTED,
            confidential=False,
            measurement="",
            tcb_status=_STATUS,
            debug=False,
            report_data=report_data.hex(),
            verified_at=at,
        )
        accepted.check(claims)
        return claims


def open_key(job_id: bytes) -> bytes:
    """32 bytes that anybody can work out: a seal under them shows damage, and hides nothing."""
    return HKDF(SHA384(), 32, salt=None, info=b"sealtune/unattested/sealing/v1").derive(job_id)


def unattested_policy() -> AppraisalPolicy:
    """A policy that accepts a party without evidence, and nothing else."""
    accepted = KindPolicy(measurements="any", tcb_statuses=(_STATUS,))
    return AppraisalPolicy(kinds={Kind.UNATTESTED: accepted})
