"""Proof of what a process is: evidence, its verifiers, and the policy they apply.

The kinds of TEE are in `sealtune.attest.platforms`, each loaded when it is asked for.

Trust domain: every enclave, and whoever appraises one.
"""

from sealtune.attest.evidence import Attester, Claims, Evidence, Kind, Verifier
from sealtune.attest.policy import AppraisalPolicy, KindPolicy

__all__ = [
    "AppraisalPolicy",
    "Attester",
    "Claims",
    "Evidence",
    "Kind",
    "KindPolicy",
    "Verifier",
]
