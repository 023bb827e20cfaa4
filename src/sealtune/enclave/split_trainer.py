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
from sealtune.enclave.glue import serve_until_done
from sealtune.enclave.sample_store import SampleStore
from sealtune.enclave.sealed_state import SealedState
from sealtune.enclave.server_program import ServerProgram
from sealtune.enclave.split_answers import SplitAnswers
from sealtune.enclave.split_program import SplitProgram
from sealtune.enclave.top_trainer import TopTrainer
from sealtune.enclave.trust import simulated_sealing_key, split_server_trust
from sealtune.job.resolved import read_resolved
from sealtune.model.cut_chunk import layout_of
from sealtune.model.resolve import check_resolved


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    config = read_config(Path(sys.argv[1]), "server")
    resolved = read_resolved(config.job)
    trust = split_server_trust(resolved)
    check_resolved(resolved)
    job_id, key = bytes.fromhex(resolved.job_id), simulated_sealing_key()
    folder = config.run_dir / "state"
    layout = layout_of(resolved.job, len(resolved.labels))
    state = SealedState(folder, key, job_id)
    program: ServerProgram
    if config.serve is not None:
        program = SplitAnswers(resolved, trust, state, layout, events, site=config.serve)
    else:
        store = SampleStore(folder / "activations", key, job_id, layout)
        program = SplitProgram(
            resolved,
            trust,
            store,
            state,
            TopTrainer(resolved, store, events),
            layout,
            events,
            resume=config.resume,
        )
    serve_until_done(config.socket, program, events)


if __name__ == "__main__":
    sys.exit(run_program(work))
