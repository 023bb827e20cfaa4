"""``python -m sealtune.enclave.split_trainer CONFIG.json``: a split job's server enclave.

Collects the sites' cut activations and tunes the top of the model on them; with ``serve`` in its
configuration, it answers a site's questions with the model of a finished run instead.

Trust domain: server enclave. The glue is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.trust import simulated_sealing_key, split_server_trust
from sealtune.job.resolved import read_resolved
from sealtune.methods.split.answers import SplitAnswers
from sealtune.methods.split.server import SplitServer
from sealtune.model.resolve import check_resolved
from sealtune.party.driver import Driver, Server
from sealtune.party.relay_link import serve_until_done


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    config = read_config(Path(sys.argv[1]), "server")
    resolved = read_resolved(config.job)
    trust = split_server_trust(resolved)
    check_resolved(resolved)
    folder, key = config.run_dir / "state", simulated_sealing_key()
    server: Server
    if config.serve is not None:
        server = SplitAnswers(resolved, folder, key, events, site=config.serve)
    else:
        server = SplitServer(resolved, folder, key, events, resume=config.resume)
    serve_until_done(config.socket, Driver(server, resolved, trust, events), events)


if __name__ == "__main__":
    sys.exit(run_program(work))
