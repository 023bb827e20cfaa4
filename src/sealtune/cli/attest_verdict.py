"""What `sealtune attest verify` found, and how it is shown.

Trust domain: whoever appraises an enclave.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealtune.attest.evidence import Claims, Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.errors import AttestationError


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
    from sealtune.attest import appraise
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


def strict_policy(kind: Kind, measurements: tuple[str, ...] = ()) -> AppraisalPolicy:
    """Firmware up to date, no open advisory, and only the given code."""
    statuses = {
        Kind.SEV_SNP: ("MinimumMet",),
        Kind.NVIDIA_GPU: ("RimMatched",),
        Kind.SIMULATED: ("Simulated",),
    }
    accepted = KindPolicy(measurements=measurements, tcb_statuses=statuses.get(kind, ("UpToDate",)))
    return AppraisalPolicy(kinds={kind: accepted})


def _accept_anything(kind: Kind) -> AppraisalPolicy:
    """Accepts whatever is genuine: to tell what is proved from what is stated, never to trust."""
    intel = (
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "TDRelaunchAdvised",
        "TDRelaunchAdvisedConfigurationNeeded",
        "Revoked",
    )
    anything = KindPolicy(
        measurements="any",
        tcb_statuses=(*intel, "MinimumMet", "RimMatched", "Unchecked", "Simulated"),
        advisories="any",
        allow=("smt", "dynamic-platform", "cached-keys"),
        max_vmpl=3,
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

    from sealtune.attest.verify import claims_table

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


def differences(claims: Claims, policy: KindPolicy) -> list[str]:
    """Everything in proved claims that a policy does not accept; a refusal names only the first."""
    found = []
    if policy.measurements != "any" and claims.measurement not in policy.measurements:
        found.append("this code is not in measurements")
    if policy.signers != "any" and claims.signer not in policy.signers:
        found.append("its signer is not in signers")
    if claims.svn < policy.min_svn:
        found.append(f"security version {claims.svn} is below min_svn {policy.min_svn}")
    if claims.tcb_status not in policy.tcb_statuses and not _met(claims, policy):
        found.append(f"{claims.tcb_status} is not in tcb_statuses")
    open_advisories = [a for a in claims.advisories if a not in policy.advisories]
    if policy.advisories != "any" and open_advisories:
        found.append(f"{', '.join(open_advisories)} not in advisories")
    features = [f for f in claims.features if f not in policy.allow]
    if features:
        found.append(f"{', '.join(features)} not in allow")
    if policy.platforms != "any" and claims.platform not in policy.platforms:
        found.append("this machine is not in platforms")
    if int(claims.details.get("VMPL", 0)) > policy.max_vmpl:
        found.append(f"VMPL {claims.details['VMPL']} is above max_vmpl {policy.max_vmpl}")
    return found


def _met(claims: Claims, policy: KindPolicy) -> bool:
    """With `min_tcb` in the policy, an SEV-SNP platform that meets it has another status."""
    return (
        claims.kind is Kind.SEV_SNP
        and bool(policy.min_tcb)
        and ("MinimumMet" in policy.tcb_statuses)
    )


def _notes(verdict: Verdict, policy: AppraisalPolicy | None, file: Path) -> list[str]:
    notes = []
    if verdict.claims and verdict.bound is None:
        notes.append(
            "neither --nonce nor --report-data was given: this shows what ran somewhere at some "
            "time, and could be a copy"
        )
    if verdict.claims and verdict.refusal and verdict.claims.tcb_status == "Unchecked":
        needed = (
            'AMD gives no verdict on firmware: state "min_tcb" in the policy'
            if verdict.kind is Kind.SEV_SNP
            else "no manifests were given, so firmware was compared with nothing: --collateral"
        )
        notes.append(f'{needed}; or accept the status "Unchecked"')
    accepted = policy or strict_policy(verdict.kind)
    if verdict.claims and verdict.refusal and verdict.kind in accepted.kinds:
        found = differences(verdict.claims, accepted.kinds[verdict.kind])
        if found:
            notes.append(f"not as the policy says: {'; '.join(found)}")
    if policy is None and (verdict.claims or verdict.stated):
        source = shlex.quote(str(file))
        notes.append(
            "without --policy no code is accepted; start one with: "
            f"sealtune attest policy --kind {verdict.kind} --from {source} > policy.json"
        )
    return notes


def _plain(text: str) -> str:
    """Certificates are made by others: nothing in them may steer a terminal."""
    text = re.sub(r"UnixTime\((\d{1,10})\)", _iso, text)
    return "".join(c if c.isprintable() else "?" for c in text)


def _iso(match: re.Match[str]) -> str:
    return datetime.fromtimestamp(int(match[1]), UTC).isoformat()
