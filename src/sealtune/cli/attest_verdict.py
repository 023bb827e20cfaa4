"""What `sealtune attest verify` found, and how it is shown.

Trust domain: whoever appraises an enclave.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from sealtune.attest.evidence import Claims, Kind
from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
from sealtune.attest.platforms.sev_snp.state import TCB_PARTS
from sealtune.attest.policy import STATUSES, AppraisalPolicy, Feature, KindPolicy
from sealtune.errors import AttestationError
from sealtune.job.printable import printable


@dataclass(frozen=True)
class Verdict:
    """The outcome of an appraisal.

    Attributes:
        kind: of evidence.
        at: the time it holds for.
        bound: what the evidence had to be over; None: nothing was asked.
        refusal: why it was refused; None: it was accepted.
        claims: what the signatures prove, also where the policy refuses it.
        stated: what the evidence says of itself, where nothing is proved.
    """

    kind: Kind
    at: datetime
    bound: bytes | None
    refusal: AttestationError | None = None
    claims: Claims | None = None
    stated: tuple[tuple[str, str], ...] = ()


def judge(
    file: Path,
    kind: Kind,
    collateral: list[Path],
    policy: AppraisalPolicy,
    at: datetime,
    bound: bytes | None,
) -> Verdict:
    """Appraise ``file``; see `sealtune.attest.appraise` for the arguments."""
    from sealtune.attest.files import appraise
    from sealtune.cli.attest_stated import stated

    try:
        claims = appraise(file, kind, collateral, policy, at, report_data=bound)
        return Verdict(kind, at, bound, claims=claims)
    except AttestationError as error:
        refusal = error
    try:
        claims = appraise(file, kind, collateral, _accept_anything(kind), at)
    except AttestationError:
        return Verdict(kind, at, bound, refusal, stated=tuple(stated(file, kind)))
    return Verdict(kind, at, bound, refusal, claims)


def strict_policy(kind: Kind, measurements: tuple[str, ...] = (), **more: Any) -> AppraisalPolicy:
    """Firmware up to date, no open advisory, and only the given code.

    Args:
        kind: of evidence.
        measurements: accepted code.
        more: further settings of the kind's policy.
    """
    statuses = {
        Kind.SEV_SNP: ("MinimumMet",),
        Kind.NVIDIA_GPU: ("RimMatched",),
        Kind.SIMULATED: ("Simulated",),
    }
    settings: dict[str, Any] = {"tcb_statuses": statuses.get(kind, ("UpToDate",))}
    if kind is Kind.SEV_SNP:
        settings["snp"] = SnpPolicy(min_tcb={})
    accepted = KindPolicy(measurements=measurements, **(settings | more))
    return AppraisalPolicy(kinds={kind: accepted})


def _accept_anything(kind: Kind) -> AppraisalPolicy:
    """Accepts whatever is genuine: to tell what is proved from what is stated, never to trust."""
    settings: dict[str, Any] = {}
    if kind is Kind.SEV_SNP:
        settings["snp"] = SnpPolicy(
            min_tcb={name: dict.fromkeys(parts, 0) for name, parts in TCB_PARTS.items()},
            vlek_providers="any",
            max_vmpl=3,
        )
    if kind is Kind.NVIDIA_GPU:
        settings["min_firmware"] = {"driver": "0", "vbios": "0"}
    anything = KindPolicy(
        measurements="any",
        tcb_statuses=STATUSES,
        advisories="any",
        allow=get_args(Feature),
        **settings,
    )
    return AppraisalPolicy(kinds={kind: anything})


def as_object(verdict: Verdict, file: Path) -> dict[str, Any]:
    """What ``--json`` prints."""
    refusal = verdict.refusal
    claims = verdict.claims.model_dump(mode="json") if verdict.claims else None
    return {
        "file": str(file),
        "kind": str(verdict.kind),
        "at": verdict.at.isoformat(),
        "verdict": "refused" if refusal else "accepted",
        "exit_code": refusal.exit_code if refusal else 0,
        "error": type(refusal).__name__ if refusal else None,
        "reason": refusal.message if refusal else "",
        "hint": refusal.hint if refusal else "",
        "report_data_checked": verdict.bound is not None,
        "claims": claims,
        "stated": dict(verdict.stated),
    }


def show(verdict: Verdict, file: Path, policy: AppraisalPolicy | None) -> None:
    """Print claims, notes and verdict; ``policy`` is None where the user gave none."""
    from rich.console import Console
    from rich.text import Text

    from sealtune.attest.files import claims_table

    # Soft wrap: digests stay whole, so they can be copied.
    console = Console(highlight=False, soft_wrap=True)
    rows = list(verdict.stated)
    title = f"{verdict.kind} evidence in {file}, as it says of itself: NOT VERIFIED"
    if verdict.claims:
        rows = claims_table(verdict.claims, report_data_checked=verdict.bound is not None)
        title = f"{verdict.kind} evidence in {file}: signatures are genuine"
    if rows:
        console.print(Text(title, "bold" if verdict.claims else "bold yellow"))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            loud = value.startswith(("NO:", "YES")) or (
                name.endswith("advisories") and value != "-"
            )
            line = Text(f"  {name:{width}}  ", "dim")
            console.print(line + Text(_plain(value), "red" if loud else "default"))
        console.print()
    for note in _notes(verdict, policy, file):
        console.print(Text(f"note: {_plain(note)}", "yellow"))
    if verdict.refusal is None:
        console.print(Text("ACCEPTED", "bold green"))
        return
    name, code = type(verdict.refusal).__name__, verdict.refusal.exit_code
    reason = Text(f": {_plain(verdict.refusal.message)}  ({name}, exit code {code})")
    console.print(Text("REFUSED", "bold red") + reason)
    if verdict.refusal.hint:
        console.print(Text(f"→ {_plain(verdict.refusal.hint)}", "cyan"))


def _notes(verdict: Verdict, policy: AppraisalPolicy | None, file: Path) -> list[str]:
    notes = []
    if verdict.claims and verdict.bound is None:
        notes.append(
            "neither --nonce nor --report-data was given: this shows what ran somewhere at some "
            "time, and could be a copy"
        )
    unchecked = verdict.claims and verdict.claims.tcb_status == "Unchecked"
    if unchecked and verdict.refusal and verdict.kind is Kind.NVIDIA_GPU:
        notes.append(
            "no manifests were given, so firmware was compared with nothing: --collateral; or "
            'accept the status "Unchecked"'
        )
    accepted = policy or strict_policy(verdict.kind)
    if verdict.claims and verdict.refusal and verdict.kind in accepted.kinds:
        faults = accepted.kinds[verdict.kind].faults(verdict.claims)
        notes += [f"not as the policy says: {fault.message}" for fault in faults]
    if policy is None and (verdict.claims or verdict.stated):
        source = shlex.quote(str(file))
        notes.append(
            "without --policy no code is accepted; start one with: "
            f"sealtune attest policy --kind {verdict.kind} --from {source} > policy.json"
        )
    return notes


def _plain(text: str) -> str:
    """Certificates are made by others: nothing in them may steer a terminal."""
    return printable(re.sub(r"UnixTime\((\d{1,10})\)", _iso, text), limit=2000)


def _iso(match: re.Match[str]) -> str:
    return datetime.fromtimestamp(int(match[1]), UTC).isoformat()
