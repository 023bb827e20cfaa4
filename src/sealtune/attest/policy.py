"""What a party accepts as proof: the appraisal policy of a job.

A kind that the policy does not name is refused. Measurements have no default: whoever writes a
policy either lists them or writes "any", in so many letters. A requirement that would not be
enforced is refused when the policy is read, and so is a permission that nobody should give.

    {"kinds": {"tdx": {"measurements": ["<mrtd hex>"], "tcb_statuses": ["UpToDate"]}}}

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
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
from sealtune.attest.evidence import Any, Claims, Firmware, Hex, Kind
from sealtune.errors import AttestationError, MalformedManifestError
from sealtune.job.printable import printable
from sealtune.job.sections import faults


def _snp_policy(value: object) -> object:
    from sealtune.attest.platforms.sev_snp.policy import SnpPolicy

    return SnpPolicy.model_validate(value)


if TYPE_CHECKING:
    from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
else:
    # loaded where a policy has such a part, and only there
    SnpPolicy = Annotated[SerializeAsAny[BaseModel], PlainValidator(_snp_policy)]

Feature = Literal["smt", "dynamic-platform", "cached-keys", "cxl", "tio"]
INTEL_STATUSES = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
STATUSES = (*INTEL_STATUSES, "MinimumMet", "RimMatched", "Unchecked", "Simulated", "Signed")
REVOKED = "Revoked"
Sha256 = Annotated[Hex, StringConstraints(min_length=64, max_length=64)]
Dotted = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,4}(\.[0-9a-f]{1,4}){0,7}$")]


def _known_status(status: str) -> str:
    if status == REVOKED:
        raise ValueError("a revoked platform is accepted by no policy")
    if status not in STATUSES:
        raise ValueError(f"not one of {', '.join(STATUSES)}")
    return status


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# What is on a list of the policy or refused: setting, claim, error, words, and those for nothing.
_LISTED: tuple[tuple[str, str, type[AttestationError], str, str], ...] = (
    ("measurements", "measurement", UnknownMeasurementError, "enclave runs code", "unnamed"),
    ("signers", "signer", UnknownSignerError, "enclave is signed by", "nobody"),
    ("product_ids", "product_id", UnknownSignerError, "enclave is its signer's product", "0"),
    ("td_modules", "td_module", TcbOutOfDateError, "module is", "not stated"),
    ("platforms", "platform", PlatformNotAllowedError, "evidence is of machine", "(unnamed)"),
)


class KindPolicy(_Strict):
    """What is accepted of one kind of evidence.

    Attributes:
        measurements: accepted code digests, or "any" (which accepts any code at all).
        signers: accepted code signers, or "any". For SEV-SNP: digests of ID keys.
        min_svn: smallest accepted security version of the code. Whoever signs the code chooses it,
            so it needs `signers`, and for SGX `product_ids`.
        product_ids: accepted SGX product ids, or "any".
        tcb_statuses: accepted verdicts on the platform's firmware. Intel says "UpToDate",
            "SWHardeningNeeded", "OutOfDate" and so on; "MinimumMet" (SEV-SNP) means that its
            `min_tcb` is met, "RimMatched" (GPU) that all firmware is as NVIDIA published it;
            "Unchecked" means neither was asked for or given. "Revoked" cannot be accepted.
        advisories: security advisories that may apply; others are refused. "any" accepts all
            that come with an accepted status.
        platforms: accepted machines (PPID, chip id, GPU serial), or "any".
        min_tcb_evaluation: smallest accepted TCB evaluation data number of Intel's collateral.
        td_modules: accepted TDX modules (MRSEAM), or "any" that Intel's collateral accepts.
        min_firmware: smallest accepted versions of a GPU's driver and VBIOS. NVIDIA's manifests of
            old ones stay valid, so both are needed where `measurements` is "any".
        allow: properties of machine or guest that are refused unless named here.
        snp: what only SEV-SNP has; needed there.
        insecure_test_root: SHA-256 of a root certificate in DER that takes the place of the
            vendor's, for trials: whoever has its key can forge everything. Claims under it are not
            confidential.
    """

    measurements: tuple[Hex, ...] | Any
    signers: tuple[Hex, ...] | Any = "any"
    min_svn: int = Field(default=0, ge=0, lt=2**32)
    product_ids: tuple[Annotated[int, Field(ge=0, lt=2**16)], ...] | Any = "any"
    tcb_statuses: tuple[Annotated[str, AfterValidator(_known_status)], ...] = (
        "UpToDate",
        "MinimumMet",
        "RimMatched",
    )
    advisories: tuple[str, ...] | Any = ()
    platforms: tuple[Hex, ...] | Any = "any"
    min_tcb_evaluation: int = Field(default=0, ge=0, lt=2**32)
    td_modules: tuple[Hex, ...] | Any = "any"
    min_firmware: Mapping[Firmware, Dotted] = Field(default_factory=dict)
    allow: tuple[Feature, ...] = ()
    snp: SnpPolicy | None = None
    insecure_test_root: Sha256 | None = None

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.min_svn and self.signers == "any":
            raise ValueError(
                "min_svn says nothing without signers: whoever signs code chooses its version"
            )
        if self.min_firmware:
            from sealtune.attest.platforms.nvidia_gpu.firmware import numbers

            for name, version in self.min_firmware.items():
                if not numbers(name, version):
                    raise ValueError(f"min_firmware: {version} is no version of a {name}")
        return self

    @property
    def confidential(self) -> bool:
        """Whether hardware stands behind what is accepted, of a kind that has any."""
        return self.insecure_test_root is None

    def roots(self, vendor: Collection[bytes]) -> Collection[bytes]:
        """SHA-256 digests of the accepted roots: the vendor's, or the test root alone."""
        root = self.insecure_test_root
        return vendor if root is None else {bytes.fromhex(root)}

    def check(self, claims: Claims) -> None:
        """Hold verified claims against this policy.

        Raises:
            AttestationError: the subclass that names the first thing found wrong.
        """
        for fault in self.faults(claims):
            raise fault

    def faults(self, claims: Claims) -> Iterator[AttestationError]:
        """Everything in verified claims that is not accepted."""
        if claims.debug:
            yield DebugEnclaveError(f"the {claims.kind} enclave runs in debug mode")
        yield from self._code(claims)
        yield from self._firmware(claims)
        refused = [f for f in claims.features if f not in self.allow]
        if refused:
            yield PlatformNotAllowedError(
                f"the {claims.kind} machine has {', '.join(refused)}, which the policy does not "
                "allow",
                hint=f'to accept it: "allow": {json.dumps(refused)} in the policy of {claims.kind}',
            )

    def status(self, claims: Claims) -> str:
        """The verdict on firmware; of SEV-SNP it depends on what the policy asks for."""
        return self.snp.status(claims.snp) if self.snp and claims.snp else claims.tcb_status

    def _code(self, claims: Claims) -> Iterator[AttestationError]:
        for setting, claim, error, words, nothing in _LISTED:
            accepted, stated = getattr(self, setting), getattr(claims, claim)
            if accepted != "any" and stated not in accepted:
                said = f"the {claims.kind} {words} {stated or nothing}"
                same = setting == "measurements" and claims.kind is Kind.SIMULATED
                yield error(
                    f"{said}, which the policy does not name",
                    hint="both sides must run the same release of sealtune" if same else "",
                )
        if claims.svn < self.min_svn:
            yield SvnTooLowError(
                f"security version {claims.svn} of the {claims.kind} enclave is below "
                f"{self.min_svn}"
            )

    def _firmware(self, claims: Claims) -> Iterator[AttestationError]:
        if (claims.snp is None) != (self.snp is None):
            yield KindNotAllowedError("what is asked of SEV-SNP and what is stated do not fit")
        elif claims.snp is not None and self.snp is not None:
            yield from self.snp.faults(claims.snp, id_key_pinned=self.signers != "any")
        status = self.status(claims)
        if status not in self.tcb_statuses or status == REVOKED:
            yield TcbOutOfDateError(
                f"the {claims.kind} platform is {status}; accepted: "
                f"{', '.join(self.tcb_statuses) or 'nothing'}",
                hint="have its operator update firmware and microcode",
            )
        unaccepted = [a for a in claims.advisories if a not in self.advisories]
        if self.advisories != "any" and unaccepted:
            yield AdvisoryError(
                f"advisories that the policy does not accept: {', '.join(unaccepted)}"
            )
        if self.min_firmware:
            from sealtune.attest.platforms.nvidia_gpu.firmware import too_old

            yield from too_old(claims.firmware, self.min_firmware)

    def misplaced(self, kind: Kind) -> Iterator[str]:
        """What does not fit ``kind``: requirements that it cannot meet or that nothing enforces."""
        has = _HAS[kind]
        for name in sorted(set().union(*_HAS.values()) - has):
            if getattr(self, name) != type(self).model_fields[name].get_default(
                call_default_factory=True
            ):
                yield f"{name} has no meaning for {kind}"
        if kind is Kind.SEV_SNP and self.snp is None:
            yield 'sev-snp needs "snp" with min_tcb, the smallest firmware versions of each product'
        if kind is Kind.SGX and self.min_svn and self.product_ids == "any":
            yield "min_svn of sgx needs product_ids: each product of a signer counts for itself"
        if kind is Kind.NVIDIA_GPU and self.measurements == "any" and len(self.min_firmware) < 2:
            yield 'nvidia-gpu with measurements "any" needs min_firmware of driver and vbios'


_TEST_ROOT = "insecure_test_root"
# Requirements that only some kinds have.
_HAS: Mapping[Kind, frozenset[str]] = {
    Kind.SGX: frozenset({"signers", "min_svn", "product_ids", "min_tcb_evaluation", _TEST_ROOT}),
    Kind.TDX: frozenset({"td_modules", "min_tcb_evaluation", _TEST_ROOT}),
    Kind.SEV_SNP: frozenset({"signers", "min_svn", "snp", _TEST_ROOT}),
    Kind.NVIDIA_GPU: frozenset({"min_firmware", _TEST_ROOT}),
    Kind.SIMULATED: frozenset({"signers", "min_svn"}),
    Kind.PARTICIPANT: frozenset({"signers"}),
    Kind.UNATTESTED: frozenset(),
}


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
    def _fits_its_kinds(self) -> Self:
        if self.gpu_required and Kind.NVIDIA_GPU not in self.kinds:
            raise ValueError('gpu_required needs a policy for "nvidia-gpu" in kinds')
        wrong = [fault for kind, policy in self.kinds.items() for fault in policy.misplaced(kind)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def confidential(self) -> bool:
        """Whether hardware under its vendor's root stands behind everything that is accepted."""
        return all(kind.confidential and one.confidential for kind, one in self.kinds.items())

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


def parse_policy(content: Mapping[str, object], place: str = "appraisal") -> AppraisalPolicy:
    """The policy that a signed manifest carries.

    Args:
        place: where in the manifest.

    Raises:
        MalformedManifestError: it is none.
    """
    try:
        return AppraisalPolicy.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = faults(error, "")[0]
        where = ".".join(filter(None, (place, first.key)))
        raise MalformedManifestError(
            f"the job manifest at {printable(where, 100)}: {printable(first.message)}"
        ) from error
