"""Federated LoRA: every site trains in an enclave of its own, with an accelerator that sees masks.

Trust domain: server operator.
"""

from __future__ import annotations

from typing import ClassVar

from sealtune.job.compute_rules import GPU
from sealtune.job.events import NOT_ASKED
from sealtune.job.method import METHODS
from sealtune.report.log import RunLog, entry
from sealtune.report.methods.view import View
from sealtune.report.parties import (
    ADAPTER,
    UNMASKED,
    Facts,
    Link,
    Party,
    Picture,
    enclave,
    operator,
    owner,
)  # fmt: skip
from sealtune.report.values import Json, add


class Federated(View):
    """See the module's text."""

    method = METHODS["federated-lora"]
    words = "methods/federated.html"
    site_role = "enclave of the site"
    server_role = "aggregator enclave"
    client = "client enclave"
    time_parts: ClassVar = {
        "enclave": "in the enclave",
        "passes": "masking and checking",
        "accelerator": "accelerator, with transfer",
        "pads": "making pads",
        "network": "network and server",
        "waiting": "waiting for other sites",
        "other": "start and export",
    }

    def picture(self, facts: Facts) -> Picture:
        """Each site's enclave beside an accelerator; the server's averages."""
        sees = "its own text; the released model, if the release rule allows"
        never = "other sites’ text or updates; the adapter while the job runs"
        gpu = facts.compute == GPU
        own = "own text, adapter, activations, gradients"
        joint = "each site’s update, the joint adapter, scores"
        return Picture(
            site=(
                owner(facts, "site", sees, never),
                enclave(
                    facts, "Client enclave", "the server", own, "other sites’ updates", gpu=gpu
                ),
            ),
            server=(
                operator("job manifest; metrics it lets out", "text, updates, adapter"),
                enclave(facts, "Server enclave", "every site", joint, "raw text"),
            ),
            path=Link("sealed frames", "sealed frames"),
            device=_accelerator(facts) if facts.compute in (None, "masked") else None,
            handshake="each attests the other; keys pass sealed, enclave to enclave",
            hidden="matrix shapes, message sizes, sequence lengths, timing",
        )

    def missing_words(self, s: Json) -> list[tuple[str, str]]:
        """How many answers are missing, and whose updates were unlike the others'."""
        outcomes = [o["outcome"] for r in s["outcomes"] for o in r["sites"].values()]
        lost = sum(outcome not in ("ok", NOT_ASKED, None) for outcome in outcomes)
        noun = "answer is" if lost == 1 else "answers are"
        words = (f"{lost} {noun} missing.", "See the round table for whose, and why.")
        return ([words] if lost else []) + _outliers(s)

    def site_bytes(self, log: RunLog, site: str) -> Json:
        """Over all rounds."""
        entries = [entry(event, site) for event in log.stages]
        return {
            "up": add(own.bytes_up for own in entries),
            "down": add(own.bytes_down for own in entries),
        }

    def is_exposed(self, log: RunLog) -> bool:
        """Without masks the accelerator sees everything."""
        level: object = log.setting("protection", "protect")
        return self.compute(log) == "masked" and level == UNMASKED


def _outliers(s: Json) -> list[tuple[str, str]]:
    """Sites whose updates pointed elsewhere than those of the others."""
    rounds = s["rounds"]["done"]
    counts = {site: own["rounds_outlier"] for site, own in s["per_site"].items()}
    return [
        (
            f"{site} was an outlier in {count} of {rounds} rounds.",
            "Its updates pointed elsewhere than those of most other sites: its data differ, its "
            "labels are wrong, or it attacks.",
        )
        for site, count in counts.items()
        if count
    ]


def _accelerator(facts: Facts) -> tuple[Link, Party]:
    """The process that multiplies, and what goes there: what it sees is the protection level."""
    if facts.protect == UNMASKED:
        return Link("codes, not masked", "products, not masked"), Party(
            "exposed",
            "Accelerator",
            "NOT PROTECTED: codes cross without masks (insecure-none)",
            "activations and gradients of every step, from which text, labels and adapter follow",
            "nothing is kept from it; for comparison only",
        )
    link = Link("masked codes x + r", "products W(x + r)")
    apart = "; its operator must not collude with the pad accelerator’s" if facts.pads else ""
    masks = "; the masks, which the pad accelerator knows" if facts.pads else ""
    if facts.protect == ADAPTER:
        plain, first, seen = facts.prefix_blocks, "the blocks below the first adapter", ""
        if plain is not None:
            first = f"the first {plain} blocks"
        if plain != 0:
            seen = f"token ids and activations of {first}, in the plain; "
            link = Link("token ids; masked codes", "activations; masked products")
        return link, Party(
            "outside",
            "Accelerator of the owner",
            f"the owner’s own machine: may see the owner’s data{apart}",
            f"public backbone weights; {seen}ring-masked codes above",
            f"adapter, its gradients, labels{masks}",
        )
    return link, Party(
        "outside",
        "Accelerator (GPU or CPU)",
        f"untrusted: may be rented, may lie; its answers are checked{apart}",
        "public backbone weights; ring-masked codes; shapes, timing",
        f"text, labels, activations, gradients, adapter{masks}",
    )
