"""A coordinator that keeps all it holds, and does what it can with it.

python hostile_coordinator.py LOCAL.toml RECORD MODE CANARIES

It is in the coordinator's place, with its keys, and speaks the protocol. MODE: ``meddle`` shows
each site the message of another, its own once more than needed, and an older one before it counts;
``drop`` loses one site's first update. CANARIES: where a hostile app, whose run is in
Flower's state, would leave a file on whichever host it came to run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from sealtune.channel import shared, stream
from sealtune.federation import relay
from sealtune.federation.enclave_link import Outcome
from sealtune.federation.events import say
from sealtune.federation.flower_transport import FlowerTransport
from sealtune.job.dsse import Envelope
from sealtune.job.local_file import load_local
from sealtune.job.manifest import open_manifest
from sealtune.launch.network import glue_of

LOCAL, RECORD, MODE, CANARIES = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
SEALED = (stream.MAGIC, shared.MAGIC)
Report = Callable[[Outcome], None]


class Meddler(FlowerTransport):
    """Carries what it should in the end, if that is its mode."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._earlier: dict[str, bytes] = {}
        self._sealed = 0  # exchanges of sealed messages
        self._dropped = False

    def exchange(
        self, outgoing: Mapping[str, bytes], deadline: float, report: Report, *rest: Any
    ) -> None:
        for site, body in outgoing.items():
            record("down", site, body)
        sealed = {site: body for site, body in outgoing.items() if body.startswith(SEALED)}
        self._sealed += bool(sealed)
        if MODE == "meddle" and len(sealed) > 1:
            sites = list(sealed)
            turned = dict(zip(sites, [sealed[site] for site in sites[1:] + sites[:1]], strict=True))
            self._try("swapped", turned, deadline)
            self._try("doubled", sealed, deadline)
            self._try("replayed", {s: b for s, b in self._earlier.items() if s in sealed}, deadline)
            self._earlier = sealed

        def told(outcome: Outcome) -> None:
            record("up", outcome.site, outcome.body or b"")
            training = self._sealed == 2  # the first one was the evaluation before it
            lost = MODE == "drop" and training and not self._dropped
            if lost:
                self._dropped = True
                outcome = Outcome(outcome.site, None, "dropped", 1, outcome.seconds, 0)
            report(outcome)

        super().exchange(outgoing, deadline, told, *rest)

    def _try(self, what: str, outgoing: Mapping[str, bytes], deadline: float) -> None:
        """Deliver ahead of the truth, and take note of what came of it."""

        def told(outcome: Outcome) -> None:
            record("up", outcome.site, outcome.body or b"")
            say("log", message=f"{what}|{outcome.site}|{outcome.reason}")

        if outgoing:
            super().exchange(outgoing, deadline, told)


def record(way: str, site: str, body: bytes) -> None:
    with RECORD.open("ab") as file:
        head = json.dumps({"way": way, "site": site, "bytes": len(body)})
        file.write(head.encode() + b"\n" + body + b"\n")


def main() -> int:
    local = load_local(LOCAL)
    manifest = open_manifest(Envelope.read(local.manifest))
    with tempfile.TemporaryDirectory() as folder:
        domain = glue_of(local, manifest, Path(folder))
        assert domain is not None
        config = Path(domain.command[-1])
        vars(relay)["FlowerTransport"] = Meddler
        poison()
        return relay.main(config)


def poison() -> None:
    """Have the hostile app and its run in Flower's state from the start."""
    from tests.federation.hostile import poisoned

    vars(relay)["link_state"] = lambda: poisoned(CANARIES)


if __name__ == "__main__":
    sys.exit(main())
