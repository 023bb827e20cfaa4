"""The trust chain: who checked whose evidence, of which kind, and when.

One row for each site: its end, and an arrow for each verdict, from the one who proved something to
the one who checked it. Red and broken means that the evidence protects nothing, or was not bound to
this job; a gap means that no verdict was recorded. A signature by a site's key is no evidence: its
arrow has the colour of the data owner's ground; what protects is the arrow back.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealtune.report.evidence import SERVER, Verdict
from sealtune.report.methods import View
from sealtune.report.numbers import moment
from sealtune.report.values import Json


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
    if verdict.is_test_root:
        shown += " under a test root"
    unsafe = ", protects nothing" if verdict.look == "simulated" else ""
    said = f"{words}: {shown}{unsafe}, {moment(verdict.time)}"
    return {"said": said, "look": verdict.look, "drawn": True}
