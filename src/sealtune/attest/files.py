"""Evidence and policies in files, and claims for people to read.

    claims = appraise(Path("quote.bin"), Kind.TDX, [Path("collateral.json")], policy, at)

Trust domain: whoever appraises an enclave.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import MalformedEvidenceError, OversizeEvidenceError
from sealtune.attest.evidence import MAGIC, MAX_EVIDENCE, MAX_PART, Claims, Evidence, Kind
from sealtune.attest.platforms.intel.quote import parse_quote, trim_padding
from sealtune.attest.platforms.nvidia_gpu.report import reported_nonce
from sealtune.attest.platforms.sev_snp.report import parse_report
from sealtune.attest.platforms.simulated import BODY
from sealtune.attest.policy import AppraisalPolicy
from sealtune.attest.wrapping import unwrap
from sealtune.errors import ConfigError, Problem
from sealtune.job.sections import faults

_T = TypeVar("_T")


def appraise(
    evidence_file: Path,
    kind: Kind,
    collateral: Sequence[Path],
    policy: AppraisalPolicy,
    at: datetime,
    *,
    report_data: bytes | None = None,
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

    Raises:
        AttestationError: one of the classes in `sealtune.attest.errors`.
    """
    evidence = load_evidence(_read(evidence_file, MAX_EVIDENCE), kind)
    given = [_read(path, MAX_PART) for path in collateral]
    appraiser = Appraiser({kind: given})
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
        case Kind.PARTICIPANT | Kind.UNATTESTED:
            raise MalformedEvidenceError(f"{evidence.kind} evidence shows no machine")


def load_policy(path: Path) -> AppraisalPolicy:
    """An appraisal policy from a JSON file.

    Raises:
        ConfigError: not readable, not JSON, or with faults; all of them are listed.
    """
    return _load(path, TypeAdapter(AppraisalPolicy))


def load_policies(path: Path, roles: Sequence[str]) -> dict[str, AppraisalPolicy]:
    """Each role's policy from a JSON file: a table ``role: policy``, or one policy for all of them.

    Raises:
        ConfigError: as for ``load_policy``; or there is no role whose evidence it could be of.
    """
    if not roles:
        problem = Problem("(file)", "is a policy of evidence, and nobody shows any in this job")
        raise ConfigError(str(path), [problem], hint="leave it out")
    table = _load(path, TypeAdapter(dict[str, object]))
    if table and table.keys() <= set(roles):
        return _load(path, TypeAdapter(dict[str, AppraisalPolicy]))
    return dict.fromkeys(roles, load_policy(path))


def _load(path: Path, form: TypeAdapter[_T]) -> _T:
    try:
        return form.validate_json(path.read_bytes())
    except OSError as error:
        problem = Problem("(file)", f"cannot be read: {error.strerror or error}")
        raise ConfigError(str(path), [problem]) from error
    except ValidationError as error:
        raise ConfigError(str(path), faults(error, "(file)")) from error


def claims_table(claims: Claims, *, report_data_checked: bool) -> list[tuple[str, str]]:
    """Rows of name and value for people."""
    note = "" if report_data_checked else "  (not compared with anything)"
    rows = [
        ("kind", str(claims.kind)),
        (
            "confidential",
            "yes" if claims.confidential else _why_not(claims.kind),
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


def _why_not(kind: Kind) -> str:
    if kind is Kind.SIMULATED:
        return "NO: simulated, its operator can read everything inside"
    return "NO: under an INSECURE TEST ROOT, whose owner can forge everything here"


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise MalformedEvidenceError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > limit:
        raise OversizeEvidenceError(f"{path} has more than {limit} bytes")
    return raw
