"""Split tuning: sites run the first blocks, once; the server enclave trains the later ones.

A site has no enclave: what is on its machine is its own. What protects its samples afterwards is
the evidence of the server enclave, and nothing else.

Trust domain: server operator.
"""

from __future__ import annotations

from typing import ClassVar

from sealtune.job.compute_rules import GPU
from sealtune.job.method import METHODS
from sealtune.report import split_figures
from sealtune.report.log import RunLog
from sealtune.report.methods.view import View
from sealtune.report.parties import Facts, Link, Picture, enclave, operator, owner
from sealtune.report.values import Json

_NEVER = "never"


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
        causal, withheld = facts.task == "causal-lm", facts.release == _NEVER
        first, later = "first blocks", "later blocks"
        if facts.cut is not None:
            first = f"first {_blocks(facts.cut)}"
            later = later if facts.blocks is None else f"last {_blocks(facts.blocks - facts.cut)}"
        sent = "token ids, so the text itself" if causal else "labels"
        unsent = "the text (but activations tell much of it)"
        return Picture(
            site=(
                owner(
                    facts,
                    "machine",
                    f"its own text and labels; embedding and {first}, frozen"
                    f"{'' if withheld else '; the released adapter'}",
                    f"other sites’ samples; the adapter{'' if withheld else ' while the job runs'}",
                    ": no enclave, proves who it is by its participant key",
                ),
                None,
            ),
            server=(
                operator(
                    "job manifest; sealed files; metrics it lets out: losses, scores, chosen heads",
                    f"text, activations, {'' if causal else 'labels, '}adapter",
                ),
                enclave(
                    facts,
                    "Server enclave",
                    "every site",
                    f"cut activations and {sent}; the {later}, adapter, gradients, scores",
                    "what the sites do not send" if causal else unsent,
                    gpu=facts.compute == GPU,
                ),
            ),
            path=Link(
                f"cut activations, {'token ids' if causal else 'labels'}",
                "no adapter: it stays" if withheld else "the adapter, at the end",
            ),
            device=None,
            handshake="sealed, once for each sample",
            hidden="message sizes, and so the number of tokens; timing",
        )

    def missing_words(self, s: Json) -> list[tuple[str, str]]:
        """Sites that were lost, and an adapter that stayed."""
        trained = [r["sites"] for r in s["outcomes"] if r["stage"] != "final"]
        final: Json = next((r["sites"] for r in s["outcomes"] if r["stage"] == "final"), {})
        left_out = _failed(trained[-1]) if trained else {}
        lost = {site: why for site, why in _failed(final).items() if site not in left_out}
        words = [(f"{site} is not in the training.", why) for site, why in left_out.items()]
        words += [(f"{site} was lost after the training.", why) for site, why in lost.items()]
        if s["split"]["release"] == _NEVER and s["rounds"]["done"]:
            title = "The adapter stayed in the server enclave."
            instead = "The enclave answers the sites’ questions instead: sealtune predict."
            words.append((title, f"The manifest releases it to nobody. {instead}"))
        return words

    def site_bytes(self, log: RunLog, site: str) -> Json:
        """Over all attempts."""
        return split_figures.site_bytes(log, site)

    def figures(self, log: RunLog) -> Json | None:
        """Cut, uploads, heads."""
        return split_figures.figures(log)

    def level(self, log: RunLog) -> str | None:
        """The settings' level is one of the accelerator, and there is none."""
        return "split"


def _blocks(number: int) -> str:
    return f"{number} block{'' if number == 1 else 's'}"


def _failed(sites: Json) -> dict[str, str]:
    """Which sites did not deliver, and what the server says of it."""
    return {
        site: f"The server’s word on it: {own['reason']}."
        if own["reason"]
        else "See the round table."
        for site, own in sites.items()
        if own["outcome"] not in ("ok", None)
    }
