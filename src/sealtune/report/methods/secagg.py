"""Federated LoRA under secure aggregation: no TEE anywhere; the server sees masked sums.

Trust domain: server operator.
"""

from __future__ import annotations

from typing import ClassVar

from sealtune.job.method import METHODS
from sealtune.report.log import RunLog
from sealtune.report.methods.federated import Federated
from sealtune.report.parties import Facts, Link, Party, Picture, owner


class SecureAggregation(Federated):
    """See the module's text."""

    method = METHODS["federated-lora-secagg"]
    words = "methods/secagg.html"
    site_role = "participant key, no TEE"
    server_role = "no TEE, not believed"
    client = "site"
    time_parts: ClassVar = {
        "enclave": "at the site",
        "network": "network, masks and server",
        "waiting": "waiting for other sites",
        "other": "start and export",
    }

    def picture(self, facts: Facts) -> Picture:
        """Text and updates stay left; sums are put together on the right."""
        server = Party(
            "exposed",
            "Server, and its operator",
            "no TEE, no evidence: trusted not to be in league with a third of the sites or more",
            "masked updates; each round’s sum, and so the joint adapter; metrics of all together",
            "text; a single site’s update, as long as enough sites keep to the rules",
        )
        return Picture(
            site=(
                owner(
                    facts,
                    "machine",
                    "its own text, updates and gradients; the joint adapter, in every round",
                    "other sites’ text or single updates",
                    ": no enclave, trusted by its owner alone; signs with its participant key",
                ),
                None,
            ),
            server=(server, None),
            path=Link("masked updates, sealed shares", "the joint adapter"),
            device=None,
            handshake="sites’ keys, shares and lists pass signed from site to site; sealed from "
            "listeners, to a server that proves nothing",
            hidden="message sizes, timing; to the server and whoever stands in its place, the "
            "joint adapter of every round",
        )

    def level(self, log: RunLog) -> str | None:
        """The settings' level is one of the accelerator, and there is none."""
        return "secure-aggregation"

    def is_exposed(self, log: RunLog) -> bool:
        """There is no accelerator."""
        return False
