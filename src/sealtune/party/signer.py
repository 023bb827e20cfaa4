"""A site without a TEE, which signs with its organisation's key: its own side and the server's.

Trust domain: data owner (split); server enclave (split).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest import AppraisalPolicy, Verifier
from sealtune.attest.platforms.participant import ParticipantVerifier, participant_policy
from sealtune.errors import UnknownKeyError
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Manifest


def check_key(manifest: Manifest, site: str, key: Ed25519PrivateKey) -> None:
    """Raise UnknownKeyError unless ``key`` is of the organisation that answers for ``site``."""
    owner = manifest.participant(site)
    if owner.key != public_hex(key.public_key()):
        raise UnknownKeyError(
            f"the key given for site '{site}' is not the one of '{owner.org}' in the manifest",
            hint=f"give the key that signed the manifest as '{owner.org}'",
        )


def accepted_keys(manifest: Manifest) -> dict[str, tuple[Verifier, AppraisalPolicy]]:
    """Site -> what takes the signature of its organisation's key, and nothing else."""
    return {
        site: (ParticipantVerifier(), participant_policy(manifest.participant(site).key))
        for site in manifest.settings.sites.names
    }
