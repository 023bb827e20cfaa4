"""Appraisal as a whole: the right verifier for each kind, the GPU with it, and files of people.

    appraiser = Appraiser({Kind.TDX: [collateral_json]})
    claims = appraiser.verify(evidence, report_data=..., policy=..., at=...)

    claims = appraise(Path("quote.bin"), Kind.TDX, [Path("collateral.json")], policy, at)

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from sealtune.attest.dcap import DcapVerifier
from sealtune.attest.errors import (
    GpuEvidenceError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
)
from sealtune.attest.evidence import (
    MAGIC,
    MAX_EVIDENCE,
    MAX_PART,
    Claims,
    Evidence,
    Kind,
    Verifier,
)
from sealtune.attest.nvidia import NvidiaVerifier, reported_nonce
from sealtune.attest.policy import AppraisalPolicy
from sealtune.attest.quote import parse_quote, trim_padding
from sealtune.attest.sev_snp import SnpVerifier, parse_report
from sealtune.attest.simulated import BODY, SimulatedVerifier
from sealtune.attest.snp_certificates import from_file
from sealtune.attest.wrapping import unwrap
from sealtune.errors import ConfigError, Problem


class Appraiser:
    """A verifier of every kind of evidence.

    Args:
        collateral: vendor data by kind, used instead of what comes with evidence: Intel's JSON for
            SGX and TDX; certificates (PEM or DER) for SEV-SNP; manifests for GPUs.
        simulated_keys: development keys that count; default: the one of this machine and user.
    """

    def __init__(
        self,
        collateral: Mapping[Kind, Sequence[bytes]] | None = None,
        *,
        simulated_keys: tuple[bytes, ...] | None = None,
    ) -> None:
        self._collateral = dict(collateral or {})
        self._simulated_keys = simulated_keys

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        policy.for_kind(evidence.kind)  # refuse before anything is parsed
        verifier = self._verifier(evidence.kind)
        return verifier.verify(evidence, report_data=report_data, policy=policy, at=at)

    def _verifier(self, kind: Kind) -> Verifier:
        given = self._collateral.get(kind, ())
        if kind in (Kind.SGX, Kind.TDX):
            if len(given) > 1:
                raise MissingCollateralError(f"{kind} takes one file of collateral")
            return DcapVerifier(kind, given[0] if given else None)
        if kind is Kind.SEV_SNP:
            return SnpVerifier(b"".join(from_file(raw) for raw in given) or None)
        if kind is Kind.NVIDIA_GPU:
            return NvidiaVerifier(given)
        if kind is Kind.PARTICIPANT:
            raise MalformedEvidenceError("a participant's signature is no evidence of a machine")
        return SimulatedVerifier(self._simulated_keys)


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


# ---- files --------------------------------------------------------------------------------------


def appraise(
    evidence_file: Path,
    kind: Kind,
    collateral: Sequence[Path],
    policy: AppraisalPolicy,
    at: datetime,
    *,
    report_data: bytes | None = None,
    simulated_keys: tuple[bytes, ...] | None = None,
) -> Claims:
    """Appraise evidence in a file.

    Args:
        evidence_file: sealtune's own format, a raw quote or report, or such in one of the wrappings
            of `sealtune.attest.wrapping`; for GPUs NVIDIA's JSON. Zero bytes after an SGX or TDX
            quote are taken for padding.
        kind: what it is said to be.
        collateral: vendor data for that kind; empty: what is inside the evidence.
        policy: what is accepted.
        at: the time for which the appraisal is to hold.
        report_data: what the evidence must be over (for GPUs: the nonce). Left out, the evidence
            proves what runs somewhere, but not that it answers anybody's challenge.
        simulated_keys: development keys that count; default: the one of this machine and user.

    Raises:
        AttestationError: one of the classes in `sealtune.attest.errors`.
    """
    evidence = load_evidence(_read(evidence_file, MAX_EVIDENCE), kind)
    given = [_read(path, MAX_PART) for path in collateral]
    appraiser = Appraiser({kind: given}, simulated_keys=simulated_keys)
    policy.for_kind(kind)
    expected = stated_report_data(evidence) if report_data is None else report_data
    return appraiser.verify(evidence, report_data=expected, policy=policy, at=at)


def load_evidence(raw: bytes, kind: Kind) -> Evidence:
    """Evidence from the bytes of a file; see `appraise` for what may be in it.

    Raises:
        MalformedEvidenceError: of another kind, or not in any of these forms.
    """
    if raw.startswith(MAGIC):
        evidence = Evidence.decode(raw)
        if evidence.kind is not kind:
            raise MalformedEvidenceError(f"the file holds {evidence.kind} evidence, not {kind}")
        return evidence
    data, sent = unwrap(raw, kind)
    if data.startswith(MAGIC):
        return load_evidence(data, kind)
    if kind in (Kind.SGX, Kind.TDX):
        data = trim_padding(data)
    return Evidence(kind, data, sent)


def stated_report_data(evidence: Evidence) -> bytes:
    """What evidence says it is over; not verified.

    Raises:
        MalformedEvidenceError: the evidence cannot be read.
    """
    match evidence.kind:
        case Kind.SGX | Kind.TDX:
            return parse_quote(evidence.data).report_data
        case Kind.SEV_SNP:
            return parse_report(evidence.data).report_data
        case Kind.NVIDIA_GPU:
            return reported_nonce(evidence.data)
        case Kind.SIMULATED:
            if len(evidence.data) < BODY.size:
                raise MalformedEvidenceError("simulated evidence is cut short")
            bound: bytes = BODY.unpack_from(evidence.data)[4]
            return bound
        case Kind.PARTICIPANT:
            raise MalformedEvidenceError("a participant's signature shows no machine")


def load_policy(path: Path) -> AppraisalPolicy:
    """An appraisal policy from a JSON file.

    Raises:
        ConfigError: not readable, not JSON, or with faults; all of them are listed.
    """
    try:
        return AppraisalPolicy.model_validate_json(path.read_bytes())
    except OSError as error:
        problem = Problem("(file)", f"cannot be read: {error.strerror or error}")
        raise ConfigError(str(path), [problem]) from error
    except ValidationError as error:
        problems = [
            Problem(".".join(str(part) for part in fault["loc"]) or "(file)", fault["msg"])
            for fault in error.errors()
        ]
        raise ConfigError(str(path), problems) from error


def claims_table(claims: Claims, *, report_data_checked: bool) -> list[tuple[str, str]]:
    """Rows of name and value for people."""
    note = "" if report_data_checked else "  (not compared with anything)"
    rows = [
        ("kind", str(claims.kind)),
        (
            "confidential",
            "yes"
            if claims.confidential
            else "NO: simulated, its operator can read everything inside",
        ),
        ("measurement", claims.measurement),
        ("signer", claims.signer or "-"),
        ("security version", str(claims.svn)),
        ("TCB status", claims.tcb_status),
        ("advisories", ", ".join(claims.advisories) or "-"),
        ("debug", "YES" if claims.debug else "no"),
        ("features", ", ".join(claims.features) or "-"),
        ("platform", claims.platform or "-"),
        ("report data", claims.report_data + note),
        ("appraised for", claims.verified_at.isoformat()),
        *claims.details.items(),
    ]
    for number, gpu in enumerate(claims.gpu, start=1):
        inner = claims_table(gpu, report_data_checked=report_data_checked)
        rows += [(f"GPU {number} {name}", value) for name, value in inner]
    return rows


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise MalformedEvidenceError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > limit:
        raise OversizeEvidenceError(f"{path} has more than {limit} bytes")
    return raw
