"""``python -m sealtune.enclave.client CONFIG.json``: a site's enclave process.

Checks the job for itself, loads its site's data and the model, and answers messages that the glue
delivers, one connection each.

Trust domain: client enclave. The glue is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.enclave.client_program import SiteProgram
from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.site_serving import serve_forever
from sealtune.enclave.trust import trust_for
from sealtune.errors import ConfigError, Problem
from sealtune.job.resolved import read_resolved
from sealtune.methods.federated.site_trainer import SiteTrainer
from sealtune.model.resolve import check_resolved
from sealtune.offload.session import OffloadSession

_PATIENCE = 120.0  # seconds that the accelerator, started with us, may take to listen


def work(events: EventLines) -> None:
    """The whole life of a site's enclave."""
    config = read_config(Path(sys.argv[1]), "client")
    resolved = read_resolved(config.job)
    site = config.site or ""
    if site not in resolved.job.sites.names:
        raise ConfigError(str(config.job), [Problem("sites.names", f"there is no site '{site}'")])
    trust = trust_for(resolved)
    check_resolved(resolved)
    with OffloadSession.connect(
        config.accelerator,
        resolved.plan,
        integrity_bits=resolved.job.protection.integrity_bits,
        owner=f"{resolved.job_id}/{site}",
        patience=_PATIENCE,
    ) as session:
        events("products", arithmetic=session.arithmetic)
        worker = SiteTrainer(resolved, site, session, config.run_dir, events)
        program = SiteProgram(bytes.fromhex(resolved.job_id), site, trust, worker, events)
        spare = resolved.job.quorum < len(resolved.job.sites.names)
        serve_forever(config.socket, program, events, spare=spare)


if __name__ == "__main__":
    sys.exit(run_program(work))
