"""Appraisal as a whole: the right verifier for each kind, and the GPU with the enclave.

    appraiser = Appraiser({Kind.TDX: [collateral_json]})
    claims = appraiser.verify(evidence, report_data=..., policy=..., at=...)

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sealtune.attest.errors import GpuEvidenceError
from sealtune.attest.evidence import Claims, Evidence, Kind, Verifier
from sealtune.attest.platforms import platform
from sealtune.attest.policy import AppraisalPolicy


class Appraiser:
    """A verifier of every kind of evidence; loads those that come and are accepted.

    Args:
        collateral: vendor data by kind, used instead of what comes with evidence (see `Platform`).
    """

    def __init__(self, collateral: Mapping[Kind, Sequence[bytes]] | None = None) -> None:
        self._collateral = dict(collateral or {})

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        policy.for_kind(evidence.kind)  # refuse before anything is loaded or parsed
        verifier = platform(evidence.kind).verifier(self._collateral.get(evidence.kind, ()))
        return verifier.verify(evidence, report_data=report_data, policy=policy, at=at)


def verify_party(
    verifier: Verifier,
    evidence: Evidence,
    *,
    report_data: bytes,
    gpu_nonce: bytes,
    policy: AppraisalPolicy,
    at: datetime,
) -> Claims:
    """Appraise an enclave and, where it has shown any, its GPUs.

    Args:
        verifier: for every kind that may come.
        evidence: of the enclave, with that of its GPUs inside.
        report_data: 64 bytes, made with the digest of the GPU evidence.
        gpu_nonce: 32 bytes that the GPU evidence must be over.
        policy: what is accepted.
        at: the time for which the appraisal is to hold.

    Returns:
        The enclave's claims, with the GPUs' in ``gpu``.

    Raises:
        GpuEvidenceError: the policy asks for a GPU and none was shown.
        AttestationError: what else was refused, of the enclave or its GPUs.
    """
    if policy.gpu_required and not evidence.gpu:
        raise GpuEvidenceError("the policy asks for an attested GPU and none was shown")
    policy = policy.model_copy(update={"gpu_required": False})  # its presence is settled
    claims = verifier.verify(evidence, report_data=report_data, policy=policy, at=at)
    if not evidence.gpu:
        return claims
    inner = Evidence(Kind.NVIDIA_GPU, evidence.gpu)
    first = verifier.verify(inner, report_data=gpu_nonce, policy=policy, at=at)
    gpus = (first.model_copy(update={"gpu": ()}), *first.gpu)
    return claims.model_copy(update={"gpu": gpus})
