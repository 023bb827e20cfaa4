"""What a party accepts as proof: the appraisal policy of a job.

A kind that the policy does not name is refused. Measurements have no default: whoever writes a
policy either lists them or writes "any", in so many letters.

    {"kinds": {"tdx": {"measurements": ["<mrtd hex>"], "tcb_statuses": ["UpToDate"]}}}

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sealtune.attest.errors import (
    AdvisoryError,
    DebugEnclaveError,
    GpuEvidenceError,
    KindNotAllowedError,
    PlatformNotAllowedError,
    SvnTooLowError,
    TcbOutOfDateError,
    UnknownMeasurementError,
    UnknownSignerError,
)
from sealtune.attest.evidence import Claims, Kind
from sealtune.errors import MalformedManifestError
from sealtune.job.printable import printable

Hex = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9a-fA-F]{2})+$", max_length=256),
    AfterValidator(str.lower),
]
Any = Literal["any"]
TcbPart = Literal["fmc", "bootloader", "tee", "snp", "microcode", "evaluation"]
Feature = Literal["smt", "dynamic-platform", "cached-keys"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KindPolicy(_Strict):
    """What is accepted of one kind of evidence.

    Attributes:
        measurements: accepted code digests, or "any" (which accepts any code at all).
        signers: accepted code signers, or "any".
        min_svn: smallest accepted security version of the code.
        tcb_statuses: accepted verdicts on the platform's firmware. Intel says "UpToDate",
            "SWHardeningNeeded", "OutOfDate" and so on; "MinimumMet" (SEV-SNP) means that `min_tcb`
            is met, "RimMatched" (GPU) that all firmware is as NVIDIA published it; "Unchecked"
            means neither was asked for or given.
        advisories: security advisories that may apply; others are refused. "any" accepts all
            that come with an accepted status.
        platforms: accepted machines (PPID, chip id, GPU serial), or "any".
        min_tcb: smallest accepted firmware versions by name (SEV-SNP: "fmc", "bootloader", "tee",
            "snp", "microcode"; SGX and TDX: "evaluation", the TCB evaluation data number).
        allow: properties of the machine that are refused unless named here.
        max_vmpl: highest accepted privilege level number of an SEV-SNP guest (0 is the most
            privileged; a guest below a paravisor has a higher one).
    """

    measurements: tuple[Hex, ...] | Any
    signers: tuple[Hex, ...] | Any = "any"
    min_svn: int = Field(default=0, ge=0, lt=2**32)
    tcb_statuses: tuple[str, ...] = ("UpToDate", "MinimumMet", "RimMatched")
    advisories: tuple[str, ...] | Any = ()
    platforms: tuple[Hex, ...] | Any = "any"
    min_tcb: Mapping[TcbPart, int] = Field(default_factory=dict)
    allow: tuple[Feature, ...] = ()
    max_vmpl: int = Field(default=0, ge=0, le=3)

    def check(self, claims: Claims) -> None:
        """Hold verified claims against this policy.

        Raises:
            AttestationError: the subclass that names the first thing found wrong.
        """
        if claims.debug:
            raise DebugEnclaveError(f"the {claims.kind} enclave runs in debug mode")
        _check_listed(claims.measurement, self.measurements, claims.kind)
        if self.signers != "any" and claims.signer not in self.signers:
            raise UnknownSignerError(
                f"the {claims.kind} enclave is signed by {claims.signer or 'nobody'}, "
                "which the policy does not name"
            )
        if claims.svn < self.min_svn:
            raise SvnTooLowError(
                f"security version {claims.svn} of the {claims.kind} enclave is below "
                f"{self.min_svn}"
            )
        if claims.tcb_status not in self.tcb_statuses:
            raise TcbOutOfDateError(
                f"the {claims.kind} platform is {claims.tcb_status}; accepted: "
                f"{', '.join(self.tcb_statuses) or 'nothing'}",
                hint="have its operator update firmware and microcode",
            )
        unaccepted = [a for a in claims.advisories if a not in self.advisories]
        if self.advisories != "any" and unaccepted:
            raise AdvisoryError(
                f"advisories that the policy does not accept: {', '.join(unaccepted)}"
            )
        refused = [f for f in claims.features if f not in self.allow]
        if refused:
            raise PlatformNotAllowedError(
                f"the {claims.kind} machine has {', '.join(refused)}, which the policy does not "
                "allow",
                hint=f'to accept it: "allow": {json.dumps(refused)} in the policy of {claims.kind}',
            )
        if self.platforms != "any" and claims.platform not in self.platforms:
            raise PlatformNotAllowedError(
                f"machine {claims.platform or '(unnamed)'} is not on the policy's list"
            )


def _check_listed(measurement: str, allowed: tuple[str, ...] | Any, kind: Kind) -> None:
    if allowed != "any" and measurement not in allowed:
        raise UnknownMeasurementError(
            f"the {kind} enclave runs code {measurement}, which the policy does not name",
            hint="both sides must run the same release of sealtune"
            if kind is Kind.SIMULATED
            else "",
        )


class AppraisalPolicy(_Strict):
    """What is accepted altogether.

    Attributes:
        version: of this format.
        kinds: accepted kinds of evidence, each with its own policy.
        gpu_required: whether evidence of a GPU must come with it (then `kinds` has "nvidia-gpu").
    """

    version: Literal[1] = 1
    kinds: Mapping[Kind, KindPolicy]
    gpu_required: bool = False

    @model_validator(mode="after")
    def _gpu_has_policy(self) -> Self:
        if self.gpu_required and Kind.NVIDIA_GPU not in self.kinds:
            raise ValueError('gpu_required needs a policy for "nvidia-gpu" in kinds')
        return self

    def for_kind(self, kind: Kind) -> KindPolicy:
        """The policy of one kind, for a verifier that looks at this kind alone.

        Raises:
            KindNotAllowedError: it has none.
            GpuEvidenceError: an enclave alone does not do; see `sealtune.attest.verify_party`.
        """
        if kind not in self.kinds:
            named = ", ".join(sorted(self.kinds)) or "nothing"
            raise KindNotAllowedError(
                f"{kind} evidence is not accepted by the policy (accepted: {named})"
            )
        if self.gpu_required and kind is not Kind.NVIDIA_GPU:
            raise GpuEvidenceError(f"the policy asks for an attested GPU beside the {kind} enclave")
        return self.kinds[kind]


def parse_policy(content: Mapping[str, object]) -> AppraisalPolicy:
    """The policy that a signed manifest carries.

    Raises:
        MalformedManifestError: it is none.
    """
    try:
        return AppraisalPolicy.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, ("appraisal", *first["loc"])))
        raise MalformedManifestError(
            f"the job manifest at {printable(where, 100)}: {printable(first['msg'])}"
        ) from error
