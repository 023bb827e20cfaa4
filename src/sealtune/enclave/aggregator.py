"""``python -m sealtune.enclave.aggregator CONFIG.json``: the server enclave's process.

Listens on its Unix socket for the glue, which carries sealed bytes to the sites and back.

Trust domain: server enclave. The glue is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.trust import trust_for
from sealtune.job.resolved import read_resolved
from sealtune.methods.federated.server import FederatedServer
from sealtune.party.driver import Driver
from sealtune.party.relay_link import serve_until_done


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    config = read_config(Path(sys.argv[1]), "server")
    resolved = read_resolved(config.job)
    trust = trust_for(resolved)
    server = FederatedServer(
        resolved, config.run_dir / "state", trust.sealing_key, events, resume=config.resume
    )
    sites = dict.fromkeys(resolved.job.sites.names, trust)
    serve_until_done(config.socket, Driver(server, resolved, sites, events), events)


if __name__ == "__main__":
    sys.exit(run_program(work))
