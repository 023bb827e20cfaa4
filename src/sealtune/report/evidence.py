"""Who attested whom, and whether that makes the run confidential.

A run counts as confidential only if every site verified the server, the server verified every site,
each time with hardware evidence bound to this job, and the codes crossed under masks.

Sites without an enclave are known to the server by their key (kind ``participant``), which is a
signature and no evidence. There it counts that every site verified the server.

Trust domain: server operator.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.job.events import Attested
from sealtune.report.log import RunLog
from sealtune.report.methods import View
from sealtune.report.values import text

SERVER = "server"
PARTICIPANT = "participant"  # kind of what a site without an enclave shows: a signature by its key
SIMULATED = "simulated"


@dataclass(frozen=True)
class Verdict:
    """``by`` checked the evidence of ``who``.

    Attributes:
        kind: ``simulated``, ``sgx``, ``tdx``, ``sev-snp``, ..., or ``participant``.
        confidential: whether that evidence keeps the machine's operator out.
        same_job: whether the evidence is bound to this run's job id; ``None`` if not recorded.
        time: unix seconds.
    """

    by: str
    who: str
    kind: str | None
    confidential: bool | None
    same_job: bool | None
    time: float | None

    @property
    def is_signature(self) -> bool:
        """No evidence, and none is asked for."""
        return self.kind == PARTICIPANT

    @property
    def is_test_root(self) -> bool:
        """Of a hardware's kind, but under a root whose key is no vendor's."""
        return self.confidential is False and self.kind not in (SIMULATED, PARTICIPANT, None)

    @property
    def look(self) -> str:
        """How it is coloured: as an enclave only if hardware vouches for this job."""
        if self.is_signature and self.same_job is not False:
            return "owner"
        return "enclave" if self.confidential and self.same_job else "simulated"


def verdicts(log: RunLog) -> list[Verdict]:
    """Every verdict of the run in order; a repeat after a resume replaces the earlier one."""
    expected = text(log.signed.get("job_id"))
    latest: dict[tuple[str, str], Verdict] = {}
    for event in log.of(Attested):
        unknown = event.job_id is None or expected is None
        latest.pop((event.by, event.who), None)
        latest[event.by, event.who] = Verdict(
            by=event.by,
            who=event.who,
            kind=event.kind,
            confidential=event.confidential,
            same_job=None if unknown else event.job_id == expected,
            time=event.time,
        )
    return list(latest.values())


def missing(log: RunLog) -> list[tuple[str, str]]:
    """Pairs (by, who) that a complete run has and this one lacks."""
    wanted = [pair for site in log.sites for pair in ((site, SERVER), (SERVER, site))]
    present = {(verdict.by, verdict.who) for verdict in verdicts(log)}
    return [pair for pair in wanted if pair not in present]


def of_evidence(log: RunLog, view: View) -> list[Verdict]:
    """The verdicts that rest on evidence: without enclaves at the sites, those on the server."""
    return [v for v in verdicts(log) if not view.method.sites_sign or not v.is_signature]


def confidential(log: RunLog, view: View) -> bool | None:
    """Whether the run was confidential; ``None`` if it ended before that could be known."""
    evidence = of_evidence(log, view)
    simulated = log.setting("protection", "attestation") == SIMULATED
    bad = any(v.confidential is False or v.same_job is False for v in evidence)
    if simulated or view.is_exposed(log) or bad:
        return False
    if not evidence:
        return None
    proven = all(v.confidential and v.same_job for v in evidence)
    return proven and not [w for _, w in missing(log) if w == SERVER or not view.method.sites_sign]


def kinds(log: RunLog, view: View) -> list[str]:
    """Kinds of evidence that were accepted, or that the job names if none was seen."""
    seen = sorted({verdict.kind for verdict in of_evidence(log, view) if verdict.kind})
    named = text(log.setting("protection", "attestation"))
    return seen or ([named] if named else [])
