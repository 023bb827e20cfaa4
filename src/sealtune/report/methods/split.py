"""Split tuning: sites run the first blocks, once; the server enclave trains the later ones.

A site has no enclave: what is on its machine is its own. What protects its samples afterwards is
the evidence of the server enclave, and nothing else.

Trust domain: server operator.
"""

from __future__ import annotations

from typing import ClassVar

from sealtune.job.method import METHODS
from sealtune.report import numbers, split_figures, uploads
from sealtune.report.log import RunLog
from sealtune.report.methods.view import View
from sealtune.report.parties import (
    Facts,
    Link,
    Party,
    Picture,
    enclave_kind,
    enclave_trust,
    names,
    network,
    several,
)
from sealtune.report.values import Json

_NEVER = "never"
_CAUSAL_LM = "causal-lm"


class Split(View):
    """See the module's text."""

    method = METHODS["split"]
    words = "methods/split.html"
    site_role = "participant key, no TEE"
    server_role = "training enclave"
    client = "site"
    time_parts: ClassVar = {
        "enclave": "first blocks, at the site",
        "server": "in the server enclave",
        "network": "network",
        "waiting": "waiting for other sites",
        "other": "start and end",
    }

    def picture(self, facts: Facts) -> Picture:
        """Text stays left, cut activations go once to the right."""
        up = f"cut activations, {'token ids' if facts.task == _CAUSAL_LM else 'labels'}"
        down = "no adapter: it stays" if facts.release == _NEVER else "the adapter, at the end"
        return Picture(
            site=(_owner(facts), None),
            network=network(),
            server=(_operator(facts), _server_enclave(facts)),
            path=Link(up, down, facts.up, facts.down),
            device=None,
            handshake="sealed, once for each sample",
            hidden="message sizes, and so the number of tokens; timing",
            simulated=bool(facts.simulated),
        )

    def tiles(self, s: Json) -> list[tuple[str, str, str]]:
        """Time, rounds and uploads."""
        t, rounds, split = s["seconds"], s["rounds"], s["split"]
        ratio = split["uplink_ratio"]
        more = "" if ratio is None else f": {ratio:.2f}{numbers.NBSP}× the bare activations"
        complete = sum(upload["samples"] is not None for upload in split["sites"].values())
        return [
            ("wall time", numbers.duration(t["total"]), "from start to end, all processes"),
            ("server enclave", numbers.duration(t["server"]), "training and testing"),
            ("first blocks, per site", numbers.duration(t["enclave"]), "once for each sample"),
            ("rounds", numbers.of(rounds["done"], rounds["planned"]),
             f"uploads: {complete} of {len(split['sites'])} sites"),
            ("sites → server", numbers.size(split["bytes_up"]), f"sealed, all sites{more}"),
        ]  # fmt: skip

    def missing_words(self, s: Json) -> list[tuple[str, str]]:
        """Sites that were lost, and an adapter that stayed."""
        trained = [r["sites"] for r in s["outcomes"] if r["stage"] != "final"]
        final: Json = next((r["sites"] for r in s["outcomes"] if r["stage"] == "final"), {})
        left_out = _failed(trained[-1]) if trained else {}
        lost = {site: why for site, why in _failed(final).items() if site not in left_out}
        words = [(f"{site} is not in the training.", _why(r)) for site, r in left_out.items()]
        words += [(f"{site} was lost after the training.", _why(r)) for site, r in lost.items()]
        if s["split"]["release"] == _NEVER and s["rounds"]["done"]:
            title = "The adapter stayed in the server enclave."
            instead = "The enclave answers the sites’ questions instead: sealtune predict."
            words.append((title, f"The manifest releases it to nobody. {instead}"))
        return words

    def site_bytes(self, log: RunLog, site: str) -> Json:
        """Over all attempts."""
        return uploads.site_bytes(log, site)

    def figures(self, log: RunLog) -> Json | None:
        """Cut, uploads, heads."""
        return split_figures.figures(log)

    def about(self, s: Json) -> list[str | None]:
        """Where it was cut, and how activations crossed."""
        split = s["split"]
        cut = f"split after block {split['cut']} of {split['blocks']}" if split["cut"] else None
        form = split["activations"]
        return [cut, f"activations as {form}" if form else None]

    def level(self, log: RunLog) -> str | None:
        """The settings' level is one of the accelerator, and there is none."""
        return "split"


def _owner(facts: Facts) -> Party:
    gets = "" if facts.release == _NEVER else "; the released adapter"
    kept = "the adapter" if facts.release == _NEVER else "the adapter while the job runs"
    first = "first blocks" if facts.cut is None else f"first {_blocks(facts.cut)}"
    return Party(
        "owner",
        several(
            "Data owner’s machine",
            "Data owners’ machines",
            "Each data owner’s machine",
            facts.sites,
        ),
        f"{names(facts.sites) or 'hospital, bank, agency, …'}: no enclave, proves who it is by its "
        "participant key",
        f"its own text and labels; embedding and {first}, frozen{gets}",
        f"other sites’ samples; {kept}",
    )


def _server_enclave(facts: Facts) -> Party:
    causal = facts.task == _CAUSAL_LM
    sent = "token ids, so the text itself" if causal else "labels"
    known = facts.cut is not None and facts.blocks is not None
    later = f"last {_blocks((facts.blocks or 0) - (facts.cut or 0))}" if known else "later blocks"
    return Party(
        enclave_kind(facts),
        "Server enclave",
        enclave_trust(facts, "every site"),
        f"cut activations and {sent}; the {later}, adapter, gradients, scores",
        "what the sites do not send" if causal else "the text (but activations tell much of it)",
    )


def _operator(facts: Facts) -> Party:
    labels = "" if facts.task == _CAUSAL_LM else "labels, "
    return Party(
        "outside",
        "Server operator",
        "untrusted: owns the machine",
        "job manifest; sealed files; metrics it lets out: losses, scores, chosen heads",
        f"text, activations, {labels}adapter",
    )


def _blocks(number: int) -> str:
    return f"{number} block{'' if number == 1 else 's'}"


def _why(reason: str) -> str:
    return f"The server’s word on it: {reason}." if reason else "See the round table."


def _failed(sites: Json) -> dict[str, str]:
    return {
        site: own["reason"] or ""
        for site, own in sites.items()
        if own["outcome"] not in ("ok", None)
    }
