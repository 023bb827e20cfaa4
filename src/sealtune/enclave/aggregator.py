"""``python -m sealtune.enclave.aggregator LOCAL.json``: the server enclave's process.

Listens on its Unix socket for the relay, which carries sealed bytes to the sites and back.

Trust domain: server enclave. The relay is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.job.local import read_local
from sealtune.methods.federated.server import FederatedServer
from sealtune.party.admit import AGGREGATOR, admit
from sealtune.party.driver import Driver
from sealtune.party.events import EventLines, run_program
from sealtune.party.relay_link import serve_until_done


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    admitted = admit(read_local(Path(sys.argv[1])), AGGREGATOR)
    server = FederatedServer(admitted, events)
    serve_until_done(admitted.local.listen, Driver(server, admitted, events), events)


if __name__ == "__main__":
    sys.exit(run_program(work))
