"""What a party of this job shows as evidence, and what it accepts from its peers.

    federated   each site's enclave and the server enclave show evidence and appraise the other's
    split       the server enclave shows evidence; a site, which has no TEE, signs with its key

Trust domain: every enclave; data owner (split).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.attest import AppraisalPolicy, Attester, Claims, Verifier
from sealtune.attest.measure import own_measurement
from sealtune.attest.platforms.participant import (
    ParticipantAttester,
    ParticipantVerifier,
    participant_policy,
)
from sealtune.attest.platforms.simulated import SimulatedAttester, SimulatedVerifier, load_key
from sealtune.attest.policy import parse_policy
from sealtune.attest.strength import check_strength
from sealtune.enclave.events import Emit
from sealtune.errors import DigestMismatchError, UnknownKeyError
from sealtune.job.keys import public_hex
from sealtune.job.resolved import Resolved


@dataclass(frozen=True)
class Trust:
    """Evidence, appraisal, and the key that seals this enclave's own files.

    Attributes:
        attester: makes this enclave's evidence.
        verifier: appraises a peer's.
        policy: what is accepted.
        sealing_key: 32 bytes that only this kind of enclave on this machine can get; empty for a
            party that seals no files.
    """

    attester: Attester
    verifier: Verifier
    policy: AppraisalPolicy
    sealing_key: bytes = b""


def trust_for(resolved: Resolved) -> Trust:
    """The trust that ``[protection] attestation`` names; so far ``simulated`` alone.

    What is accepted of peers is what the manifest says, and nothing else.

    Raises:
        DigestMismatchError: this code is not the code that was signed.
        MalformedManifestError: the manifest's appraisal policy is none.
        WeakEvidenceError: it accepts code that nobody named.
        AttestationError: this machine cannot make such evidence.
    """
    _check_code(resolved)
    _ = resolved.job.protection.attestation  # there is one kind so far
    return Trust(
        attester=SimulatedAttester(),
        verifier=SimulatedVerifier(),
        policy=_accepted(resolved),
        sealing_key=simulated_sealing_key(),
    )


def split_server_trust(resolved: Resolved) -> dict[str, Trust]:
    """For each site, what the server enclave of a split job shows it and accepts of it.

    A site is who signs with the key of the organisation that answers for it in the manifest.

    Raises:
        DigestMismatchError, AttestationError: as for ``trust_for``.
    """
    own = trust_for(resolved)
    return {
        site: replace(own, verifier=ParticipantVerifier(), policy=participant_policy(one.key))
        for one in resolved.manifest.participants
        for site in one.sites
    }


def owner_trust(resolved: Resolved, site: str, key: Ed25519PrivateKey) -> Trust:
    """What a site of a split job shows the server enclave, and accepts of it.

    Raises:
        DigestMismatchError: this code is not the code that was signed.
        UnknownKeyError: the manifest names another key for this site.
    """
    _check_code(resolved)
    (named,) = (one for one in resolved.manifest.participants if site in one.sites)
    if named.key != public_hex(key.public_key()):
        raise UnknownKeyError(
            f"the key given for site '{site}' is not the one of '{named.org}' in the manifest",
            hint=f"give the key that signed the manifest as '{named.org}'",
        )
    return Trust(
        attester=ParticipantAttester(key),
        verifier=SimulatedVerifier(),
        policy=_accepted(resolved),
    )


def _accepted(resolved: Resolved) -> AppraisalPolicy:
    policy = parse_policy(resolved.manifest.appraisal)
    check_strength(policy)
    return policy


def _check_code(resolved: Resolved) -> None:
    if own_measurement().hex() != resolved.manifest.code_digest:
        raise DigestMismatchError(
            "the code of this enclave is not the code that was signed",
            hint="use the version of sealtune that built the manifest, or build and sign a new one",
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
