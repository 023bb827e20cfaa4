"""Evidence that proves nothing is no evidence: what no job may accept, whoever signed it.

Trust domain: every enclave, and a participant's own machine.
"""

from __future__ import annotations

from sealtune.attest.evidence import Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.errors import WeakEvidenceError


def check_strength(policy: AppraisalPolicy) -> None:
    """Raise WeakEvidenceError if a job with this policy would trust code that nobody named."""
    if not policy.kinds:
        raise WeakEvidenceError("the job accepts no kind of evidence at all")
    open_kinds = [str(kind) for kind, accepted in policy.kinds.items() if _any_code(kind, accepted)]
    if open_kinds:
        raise WeakEvidenceError(
            f"the job accepts {', '.join(open_kinds)} evidence of any code at all",
            hint='list the measurements that are accepted; "any" is for `sealtune attest verify`',
        )
    hardware = [str(kind) for kind in policy.kinds if kind is not Kind.SIMULATED]
    if Kind.SIMULATED in policy.kinds and hardware:
        raise WeakEvidenceError(
            f"the job accepts simulated evidence beside {', '.join(hardware)}: whoever can forge "
            "the one needs no hardware",
            hint="accept simulated evidence alone, for a trial, or not at all",
        )


def _any_code(kind: Kind, accepted: KindPolicy) -> bool:
    # what runs on a GPU is told by its firmware's reference values, which its status stands for
    by_reference = kind is Kind.NVIDIA_GPU and "Unchecked" not in accepted.tcb_statuses
    return accepted.measurements == "any" and not by_reference
