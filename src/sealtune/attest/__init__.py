"""Proof of what a process is: evidence, its verifiers, and the policy they apply.

Trust domain: every enclave, and whoever appraises one.
"""

from sealtune.attest.evidence import (
    DOMAIN,
    Attester,
    Claims,
    Evidence,
    Kind,
    Verifier,
    gpu_nonce,
    report_data,
)
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.attest.simulated import SimulatedAttester, SimulatedVerifier, simulated_policy
from sealtune.attest.snp_policy import SnpPolicy
from sealtune.attest.verify import Appraiser, appraise, claims_table, load_policy, verify_party

__all__ = [
    "DOMAIN",
    "AppraisalPolicy",
    "Appraiser",
    "Attester",
    "Claims",
    "Evidence",
    "Kind",
    "KindPolicy",
    "SimulatedAttester",
    "SimulatedVerifier",
    "SnpPolicy",
    "Verifier",
    "appraise",
    "claims_table",
    "gpu_nonce",
    "load_policy",
    "report_data",
    "simulated_policy",
    "verify_party",
]
