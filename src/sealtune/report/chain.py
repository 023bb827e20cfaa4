"""The trust chain: who checked whose evidence, of which kind, and when.

One row for each site: its end, and an arrow for each verdict, from the one who proved something to
the one who checked it. Red and broken means that the evidence protects nothing, or was not bound to
this job; a gap means that no verdict was recorded. A signature by a site's key is no evidence: its
arrow has the colour of the data owner's ground; what protects is the arrow back.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealtune.report.evidence import SERVER, Verdict
from sealtune.report.methods import View
from sealtune.report.numbers import moment


@dataclass(frozen=True)
class End:
    """A box: ``look`` is its colour and border."""

    name: str
    role: str
    look: str


@dataclass(frozen=True)
class Proof:
    """An arrow from prover to verifier, or the words on its absence.

    Attributes:
        forth: from the site to the server.
        drawn: whether there is a verdict.
    """

    said: str
    look: str
    forth: bool
    drawn: bool


@dataclass(frozen=True)
class Chain:
    """All rows: a site, what it proved, what it checked; and the server that they share."""

    rows: Sequence[tuple[End, Proof, Proof]]
    server: End


def chain(verdicts: Sequence[Verdict], sites: Sequence[str], view: View) -> Chain:
    """The picture's parts; the server looks as its weakest verdict does."""
    by_pair = {(verdict.by, verdict.who): verdict for verdict in verdicts}
    rows: list[tuple[End, Proof, Proof]] = []
    for site in sites:
        of_site, of_server = by_pair.get((SERVER, site)), by_pair.get((site, SERVER))
        look = "owner" if view.method.sites_sign else _look(of_site)
        proofs = (
            _proof(of_site, "server checked the site", forth=True),
            _proof(of_server, "site checked the server", forth=False),
        )
        rows.append((End(site, view.site_role, look), *proofs))
    looks = {_look(by_pair.get((site, SERVER))) for site in sites}
    weakest = "enclave" if looks == {"enclave"} else "simulated"
    return Chain(rows, End(SERVER, view.server_role, weakest))


def _proof(verdict: Verdict | None, words: str, *, forth: bool) -> Proof:
    if verdict is None:
        return Proof(f"{words}: not recorded", "simulated", forth, drawn=False)
    shown = "signature by its key" if verdict.look == "owner" else verdict.kind or "unknown"
    if verdict.is_test_root:
        shown += " under a test root"
    unsafe = ", protects nothing" if verdict.look == "simulated" else ""
    said = f"{words}: {shown}{unsafe}, {moment(verdict.time)}"
    return Proof(said, verdict.look, forth, drawn=True)


def _look(verdict: Verdict | None) -> str:
    return verdict.look if verdict else "simulated"
