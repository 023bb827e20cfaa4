"""What an enclave of this job shows as evidence, and what it accepts from its peers.

Trust domain: every enclave.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.attest import (
    AppraisalPolicy,
    Attester,
    Claims,
    SimulatedAttester,
    SimulatedVerifier,
    Verifier,
)
from sealtune.attest.measure import own_measurement
from sealtune.attest.policy import parse_policy
from sealtune.attest.simulated import load_key
from sealtune.enclave.events import Emit
from sealtune.errors import DigestMismatchError
from sealtune.job.resolved import Resolved


@dataclass(frozen=True)
class Trust:
    """Evidence, appraisal, and the key that seals this enclave's own files.

    Attributes:
        attester: makes this enclave's evidence.
        verifier: appraises a peer's.
        policy: what is accepted.
        sealing_key: 32 bytes that only this kind of enclave on this machine can get.
    """

    attester: Attester
    verifier: Verifier
    policy: AppraisalPolicy
    sealing_key: bytes


def trust_for(resolved: Resolved) -> Trust:
    """The trust that ``[protection] attestation`` names; so far ``simulated`` alone.

    What is accepted of peers is what the manifest says, and nothing else.

    Raises:
        DigestMismatchError: this code is not the code that was signed.
        MalformedManifestError: the manifest's appraisal policy is none.
        AttestationError: this machine cannot make such evidence.
    """
    if own_measurement().hex() != resolved.manifest.code_digest:
        raise DigestMismatchError(
            "the code of this enclave is not the code that was signed",
            hint="use the version of sealtune that built the manifest, or build and sign a new one",
        )
    _ = resolved.job.protection.attestation  # there is one kind so far
    return Trust(
        attester=SimulatedAttester(),
        verifier=SimulatedVerifier(),
        policy=parse_policy(resolved.manifest.appraisal),
        sealing_key=simulated_sealing_key(),
    )


def simulated_sealing_key() -> bytes:
    """Stands in for a TEE's sealing key: derived from the development key (mode 0600, kept outside
    every run folder). Whoever can read that file can open what is sealed with it.
    """
    info = b"sealtune/simulated/sealing/v1"
    return HKDF(SHA384(), 32, salt=None, info=info).derive(load_key().private_bytes_raw())


def emit_attested(emit: Emit, claims: Claims, *, who: str, by: str, job_id: str) -> None:
    """Say that ``by`` has verified ``who``."""
    emit(
        "attested",
        who=who,
        by=by,
        kind=str(claims.kind),
        confidential=claims.confidential,
        job_id=job_id,
    )
