"""Whether a job's policies prove anything: asked of what everybody is about to sign.

Trust domain: every enclave, and whoever builds, signs or starts a job.
"""

from __future__ import annotations

from sealtune.attest.evidence import Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.errors import WeakEvidenceError

_NO_ENCLAVE = {Kind.PARTICIPANT: "a participant's signature", Kind.UNATTESTED: "nothing at all"}


def check_strength(policy: AppraisalPolicy) -> None:
    """Raise WeakEvidenceError if a job with this policy would trust what proves nothing."""
    if not policy.kinds:
        raise WeakEvidenceError("the job accepts no kind of evidence at all")
    for kind, words in _NO_ENCLAVE.items():
        if kind in policy.kinds:
            raise WeakEvidenceError(
                f"the job accepts {words} as evidence of an enclave",
                hint=f"leave '{kind}' out: parties without an enclave need no policy",
            )
    open_kinds = [str(kind) for kind, accepted in policy.kinds.items() if _any_code(kind, accepted)]
    if open_kinds:
        raise WeakEvidenceError(
            f"the job accepts {', '.join(open_kinds)} evidence of any code at all",
            hint='list the measurements that are accepted; "any" is for `sealtune attest verify`',
        )
    trial, real = [], []
    for kind, accepted in policy.kinds.items():
        if kind is Kind.SIMULATED or not accepted.confidential:
            trial.append(str(kind) if accepted.confidential else f"{kind} under a test root")
        else:
            real.append(str(kind))
    if trial and real:
        raise WeakEvidenceError(
            f"the job accepts {', '.join(trial)} evidence beside {', '.join(real)}: whoever can "
            "forge the one needs no hardware",
            hint="accept simulated evidence or test roots alone, for a trial, or not at all",
        )


def _any_code(kind: Kind, accepted: KindPolicy) -> bool:
    # what runs on a GPU is told by its firmware's reference values, which its status stands for
    by_reference = kind is Kind.NVIDIA_GPU and "Unchecked" not in accepted.tcb_statuses
    return accepted.measurements == "any" and not by_reference
