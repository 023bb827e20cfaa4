"""``python -m sealtune.enclave.aggregator CONFIG.json``: the server enclave's process.

Listens on its Unix socket for the glue, which carries sealed bytes to the sites and back.

Trust domain: server enclave. The glue is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.enclave.aggregator_program import Aggregator
from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.glue import serve_until_done
from sealtune.enclave.sealed_state import SealedState
from sealtune.enclave.trust import trust_for
from sealtune.job.resolved import read_resolved


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    config = read_config(Path(sys.argv[1]), "server")
    resolved = read_resolved(config.job)
    trust = trust_for(resolved)
    state = SealedState(config.run_dir / "state", trust.sealing_key, bytes.fromhex(resolved.job_id))
    program = Aggregator(resolved, trust, state, events, resume=config.resume)
    serve_until_done(config.socket, program, events)


if __name__ == "__main__":
    sys.exit(run_program(work))
