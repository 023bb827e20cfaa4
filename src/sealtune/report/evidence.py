"""Who attested whom, and whether that makes the run confidential.

A run counts as confidential only if every site verified the server, the server verified every site,
each time with hardware evidence bound to this job, and the codes crossed under masks.

The sites of a split job have no enclave: the server knows them by their key (kind ``participant``),
which is a signature and no evidence. There it counts that every site verified the server.

Trust domain: server operator.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.report.log import RunLog
from sealtune.report.values import flag, number, text

SERVER = "server"
PARTICIPANT = "participant"  # kind of what a site of a split job shows: a signature by its key


@dataclass(frozen=True)
class Attested:
    """One verdict: ``by`` checked the evidence of ``who``.

    Attributes:
        kind: ``simulated``, ``sgx``, ``tdx``, ``sev-snp``, ..., or ``participant``.
        confidential: whether that kind keeps the machine's operator out.
        same_job: whether the evidence is bound to this run's job id; ``None`` if not recorded.
        time: unix seconds.
    """

    by: str
    who: str
    kind: str | None
    confidential: bool | None
    same_job: bool | None
    time: float | None


def verdicts(log: RunLog) -> list[Attested]:
    """Every verdict of the run in order; a repeat after a resume replaces the earlier one."""
    expected = text(log.resolved.get("job_id"))
    found: dict[tuple[str, str], Attested] = {}
    for event in log.of("attested"):
        by, who, job_id = (text(event.get(key)) for key in ("by", "who", "job_id"))
        if by is None or who is None:
            continue
        found.pop((by, who), None)
        found[(by, who)] = Attested(
            by=by,
            who=who,
            kind=text(event.get("kind")),
            confidential=flag(event.get("confidential")),
            same_job=None if job_id is None or expected is None else job_id == expected,
            time=number(event.get("time")),
        )
    return list(found.values())


def missing(log: RunLog) -> list[tuple[str, str]]:
    """Pairs (by, who) that a complete run has and this one lacks."""
    wanted = [pair for site in log.sites for pair in ((site, SERVER), (SERVER, site))]
    present = {(v.by, v.who) for v in verdicts(log)}
    return [pair for pair in wanted if pair not in present]


def of_evidence(log: RunLog) -> list[Attested]:
    """The verdicts that rest on evidence: of a split job those on the server."""
    return [v for v in verdicts(log) if not (log.is_split and v.kind == PARTICIPANT)]


def confidential(log: RunLog) -> bool | None:
    """Whether the run was confidential; ``None`` if it ended before that could be known."""
    found = of_evidence(log)
    simulated = log.setting("protection", "attestation") == "simulated"
    unmasked = not log.is_split and log.setting("protection", "protect") == "insecure-none"
    bad = any(v.confidential is False or v.same_job is False for v in found)
    if simulated or unmasked or bad:
        return False
    if not found:
        return None
    proven = all(v.confidential and v.same_job for v in found)
    lacking = [who for _, who in missing(log) if who == SERVER or not log.is_split]
    return proven and not lacking


def kinds(log: RunLog) -> list[str]:
    """Kinds of evidence that were accepted, or that the job names if none was seen."""
    seen = sorted({v.kind for v in of_evidence(log) if v.kind})
    named = text(log.setting("protection", "attestation"))
    return seen or ([named] if named else [])
