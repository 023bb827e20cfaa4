"""``python -m sealtune.methods.secure_aggregation LOCAL.json``: the server's process.

Listens on its Unix socket for the relay, which carries sealed bytes to the sites and back. It runs
in no TEE and shows no evidence.

Trust domain: server operator.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.job.local import read_local
from sealtune.methods.secure_aggregation.server import SumServer
from sealtune.party.admit import SUMMING_SERVER, admit
from sealtune.party.driver import Driver
from sealtune.party.events import EventLines, run_program
from sealtune.party.relay_link import serve_until_done


def work(events: EventLines) -> None:
    """The whole life of the server."""
    admitted = admit(read_local(Path(sys.argv[1])), SUMMING_SERVER)
    server = SumServer(admitted, events)
    serve_until_done(admitted.local.listen, Driver(server, admitted, events), events)


if __name__ == "__main__":
    sys.exit(run_program(work))
