"""Federated LoRA: every site trains in an enclave of its own, with an accelerator that sees masks.

Trust domain: server operator.
"""

from __future__ import annotations

from typing import ClassVar

from sealtune.job.method import METHODS
from sealtune.report import numbers
from sealtune.report.log import RunLog, entry
from sealtune.report.methods.view import View
from sealtune.report.parties import (
    ADAPTER,
    UNMASKED,
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
        "accelerator": "accelerator, with transfer",
        "pads": "making pads",
        "network": "network and server",
        "waiting": "waiting for other sites",
        "other": "start and export",
    }

    def picture(self, facts: Facts) -> Picture:
        """Each site's enclave beside an accelerator; the server's averages."""
        return Picture(
            site=(_owner(facts), _client_enclave(facts)),
            network=network(),
            server=(_operator(), _server_enclave(facts)),
            path=Link("sealed frames", "sealed frames", facts.up, facts.down),
            device=(_codes(facts), _accelerator(facts)),
            handshake="each attests the other; keys pass sealed, enclave to enclave",
            hidden="matrix shapes, message sizes, sequence lengths, timing",
            simulated=bool(facts.simulated),
        )

    def tiles(self, s: Json) -> list[tuple[str, str, str]]:
        """Time, rounds and bytes, of enclaves and accelerator."""
        t, b, rounds = s["seconds"], s["bytes"], s["rounds"]
        answers = [o["outcome"] for r in s["outcomes"] for o in r["sites"].values()]
        online = add((t["enclave"], t["accelerator"]))
        together = numbers.duration(add((online, t["pads"])))
        sealed = add((b["up"], b["down"]))
        codes = add((b["enclave_to_accelerator"], b["accelerator_to_enclave"]))
        return [
            ("wall time", numbers.duration(t["total"]), "from start to end, all processes"),
            (
                "computing, per site",
                numbers.duration(online),
                f"and {numbers.duration(t['pads'])} for pads: {together} together",
            ),
            ("rounds", numbers.of(rounds["done"], rounds["planned"]),
             f"{answers.count('ok')} of {len(answers)} answers in"),
            ("sites ↔ server", numbers.size(sealed), "sealed, all sites, both ways"),
            ("enclaves ↔ accelerator", numbers.size(codes),
             f"{numbers.count(b['accelerator_calls'])} calls"),
        ]  # fmt: skip

    def missing_words(self, s: Json) -> list[tuple[str, str]]:
        """How many answers are missing."""
        outcomes = [o["outcome"] for r in s["outcomes"] for o in r["sites"].values()]
        lost = sum(outcome not in ("ok", None) for outcome in outcomes)
        noun = "answer is" if lost == 1 else "answers are"
        words = (f"{lost} {noun} missing.", "See the round table for whose, and why.")
        return [words] if lost else []

    def site_bytes(self, log: RunLog, site: str) -> Json:
        """Over all rounds."""
        entries = [entry(event, site) for event in log.stages]
        return {
            "up": add(own.bytes_up for own in entries),
            "down": add(own.bytes_down for own in entries),
        }

    def is_exposed(self, log: RunLog) -> bool:
        """Without masks the accelerator sees everything."""
        return log.setting("protection", "protect") == UNMASKED


def _owner(facts: Facts) -> Party:
    return Party(
        "owner",
        several("Data owner’s site", "Data owners’ sites", "Each data owner’s site", facts.sites),
        names(facts.sites) or "hospital, bank, agency, …",
        "its own text; the released model, if the release rule allows",
        "other sites’ text or updates; the adapter while the job runs",
    )


def _client_enclave(facts: Facts) -> Party:
    return Party(
        enclave_kind(facts),
        "Client enclave",
        enclave_trust(facts, "the server"),
        "own text, adapter, activations, gradients",
        "other sites’ updates",
    )


def _accelerator(facts: Facts) -> Party:
    """The process that multiplies: what it sees is the protection level."""
    if facts.protect == UNMASKED:
        return Party(
            "exposed",
            "Accelerator",
            "NOT PROTECTED: codes cross without masks (insecure-none)",
            "activations and gradients of every step, from which text, labels and adapter follow",
            "nothing is kept from it; for comparison only",
        )
    if facts.protect == ADAPTER:
        plain = facts.prefix_blocks
        first = (
            "the blocks below the first adapter" if plain is None else f"the first {plain} blocks"
        )
        seen = f"token ids and activations of {first}, in the plain; " if plain != 0 else ""
        return Party(
            "outside",
            "Accelerator of the owner",
            "the owner’s own machine: may see the owner’s data",
            f"public backbone weights; {seen}ring-masked codes above",
            "adapter, its gradients, labels",
        )
    return Party(
        "outside",
        "Accelerator (GPU or CPU)",
        "untrusted: may be rented, may lie; its answers are checked",
        "public backbone weights; ring-masked codes; shapes, timing",
        "text, labels, activations, gradients, adapter",
    )


def _codes(facts: Facts) -> Link:
    """What goes from enclave to accelerator, and what comes back."""
    forth, back = "masked codes x + r", "products W(x + r)"
    if facts.protect == UNMASKED:
        forth, back = "codes, not masked", "products, not masked"
    elif facts.protect == ADAPTER and facts.prefix_blocks != 0:
        forth, back = "token ids; masked codes", "activations; masked products"
    return Link(forth, back, facts.out, facts.back)


def _operator() -> Party:
    return Party(
        "outside",
        "Server operator",
        "untrusted: owns the machine",
        "job manifest; metrics it lets out",
        "text, updates, adapter",
    )


def _server_enclave(facts: Facts) -> Party:
    return Party(
        enclave_kind(facts),
        "Server enclave",
        enclave_trust(facts, "every site"),
        "each site’s update, the joint adapter, scores",
        "raw text",
    )
