"""Who attested whom, and whether that makes the run confidential.

A run counts as confidential only if every site verified the server, the server verified every site,
each time with hardware evidence bound to this job, and the codes crossed under masks.

Under secure aggregation nobody shows evidence, and no run counts as confidential.

Sites without an enclave are known to the server by their key (kind ``participant``), which is a
signature and no evidence. There it counts that every site verified the server.

The picture of it, the trust chain, has one row for each site: its end, and an arrow for each
verdict, from the one who proved something to the one who checked it. Red and broken means that the
evidence protects nothing, or was not bound to this job; a gap means that no verdict was recorded. A
signature's arrow has the colour of the data owner's ground; what protects is the arrow back.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sealtune.job.events import Attested
from sealtune.report.log import RunLog
from sealtune.report.methods import View
from sealtune.report.numbers import moment
from sealtune.report.values import Json, text

SERVER = "server"
PARTICIPANT = "participant"  # kind of what a site without an enclave shows: a signature by its key
UNATTESTED = "unattested"  # in the place of evidence, where none is asked for
SIMULATED = "simulated"


class Verdict(NamedTuple):
    """``by`` checked the evidence of ``who``; ``None`` where something was not recorded."""

    by: str
    who: str
    kind: str | None  # simulated, sgx, tdx, sev-snp, ..., or participant
    confidential: bool | None  # whether that evidence keeps the machine's operator out
    same_job: bool | None  # whether the evidence is bound to this run's job id
    time: float | None  # unix seconds
    gpus: int = 0  # whose evidence came with it

    @property
    def is_signature(self) -> bool:
        """No evidence, and none is asked for."""
        return self.kind == PARTICIPANT

    @property
    def is_test_root(self) -> bool:
        """Of a hardware's kind, but under a root whose key is no vendor's."""
        ours = (SIMULATED, PARTICIPANT, UNATTESTED, None)
        return self.confidential is False and self.kind not in ours

    @property
    def look(self) -> str:
        """How it is coloured: as an enclave only if hardware vouches for this job."""
        if self.is_signature and self.same_job is not False:
            return "owner"
        return "enclave" if self.confidential and self.same_job else "simulated"


def verdicts(log: RunLog) -> list[Verdict]:
    """Every verdict of the run in order, of those who gave them; a repeat after a resume replaces
    the earlier one.
    """
    expected = text(log.signed.get("job_id"))
    latest: dict[tuple[str, str], Verdict] = {}
    for event in log.of(Attested):
        if event.role.removeprefix("client:") != event.by:
            continue  # a process speaks for itself, of nobody else's verdict
        pair = (event.by, event.who)
        unknown = event.job_id is None or expected is None
        same_job = None if unknown else event.job_id == expected
        latest.pop(pair, None)
        latest[pair] = Verdict(
            *pair, event.kind, event.confidential, same_job, event.time, event.gpus
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
    if not view.method.attested:
        return False
    evidence = of_evidence(log, view)
    simulated = SIMULATED in (log.setting("protection", "attestation"), log.pad_operators)
    bad = any(v.confidential is False or v.same_job is False for v in evidence)
    if simulated or view.is_exposed(log) or bad:
        return False
    if not evidence:
        return None
    proven = all(v.confidential and v.same_job for v in evidence)
    return proven and not [w for _, w in missing(log) if w == SERVER or not view.method.sites_sign]


def kinds(log: RunLog, view: View) -> list[str]:
    """Kinds of evidence that were accepted, or that the job names if none was seen."""
    if not view.method.attested:
        return []
    seen = sorted({verdict.kind for verdict in of_evidence(log, view) if verdict.kind})
    named = text(log.setting("protection", "attestation"))
    return seen or ([named] if named else [])


def chain(verdicts: Sequence[Verdict], sites: Sequence[str], view: View) -> Json:
    """Rows of ends and proofs, and the server's end, which looks as its weakest verdict does."""
    by_pair = {(verdict.by, verdict.who): verdict for verdict in verdicts}
    rows: list[Json] = []
    for site in sites:
        forth = _proof(by_pair.get((SERVER, site)), "server checked the site") | {"way": "forth"}
        back = _proof(by_pair.get((site, SERVER)), "site checked the server") | {"way": "back"}
        look = "owner" if view.method.sites_sign else forth["look"]
        rows.append({"end": _end(site, view.site_role, look), "proofs": (forth, back)})
    sound = bool(rows) and all(row["proofs"][1]["look"] == "enclave" for row in rows)
    look = "enclave" if sound else "simulated"
    return {"rows": rows, "server": _end(SERVER, view.server_role, look)}


def _end(name: str, role: str, look: str) -> Json:
    return {"name": name, "role": role, "look": look}


def _proof(verdict: Verdict | None, words: str) -> Json:
    if verdict is None:
        return {"said": f"{words}: not recorded", "look": "simulated", "drawn": False}
    shown = "signature by its key" if verdict.look == "owner" else verdict.kind or "unknown"
    if verdict.kind == UNATTESTED:
        shown = "nothing, and asks for none"
    if verdict.is_test_root:
        shown += " under a test root"
    unsafe = ", protects nothing" if verdict.look == "simulated" else ""
    said = f"{words}: {shown}{unsafe}, {moment(verdict.time)}"
    return {"said": said, "look": verdict.look, "drawn": True}
