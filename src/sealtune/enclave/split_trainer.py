"""``python -m sealtune.enclave.split_trainer LOCAL.json``: a split job's server enclave.

Collects the sites' cut activations and tunes the top of the model on them; with ``serve`` in its
local file, it answers a site's questions with the model of a finished run instead.

Trust domain: server enclave. The relay is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.job.local import read_local
from sealtune.methods.split.server import SplitServer
from sealtune.party.admit import admit
from sealtune.party.driver import Driver, Server
from sealtune.party.events import EventLines, run_program
from sealtune.party.relay_link import serve_until_done
from sealtune.plan.roles import SPLIT_SERVER


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    admitted = admit(read_local(Path(sys.argv[1])), SPLIT_SERVER)
    server: Server
    if admitted.local.serve is None:
        server = SplitServer(admitted, events)
    else:
        from sealtune.methods.split.answers import SplitAnswers

        server = SplitAnswers(admitted, events)
    serve_until_done(admitted.local.listen, Driver(server, admitted, events), events)


if __name__ == "__main__":
    sys.exit(run_program(work))
