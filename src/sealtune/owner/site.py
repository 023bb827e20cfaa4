"""``python -m sealtune.owner.site CONFIG.json``: a site's process in a split job.

Checks the job for itself, loads its data and the first blocks of the model, and answers messages
that the glue delivers. It proves who it is with its organisation's key, and talks to nobody but a
server enclave whose evidence the manifest accepts.

Trust domain: data owner. The glue is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.enclave.client_program import SiteProgram
from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.own_data import load_own_data
from sealtune.enclave.site_serving import serve_forever
from sealtune.enclave.trust import owner_trust
from sealtune.errors import ConfigError, Problem
from sealtune.job.key_files import load_private
from sealtune.job.resolved import read_resolved
from sealtune.model.resolve import check_resolved
from sealtune.owner.bottom_site import BottomSite


def work(events: EventLines) -> None:
    """The whole life of a site's process."""
    config = read_config(Path(sys.argv[1]), "client")
    resolved = read_resolved(config.job)
    site = config.site or ""
    problems = []
    if site not in resolved.job.sites.names:
        problems.append(Problem("sites.names", f"there is no site '{site}'"))
    if config.key is None:
        problems.append(Problem("key", "is missing: a site of a split job signs with its key"))
    if problems or config.key is None:
        raise ConfigError(str(config.job), problems)
    trust = owner_trust(resolved, site, load_private(config.key))
    check_resolved(resolved)
    texts, _ = load_own_data(resolved, site, events)
    worker = BottomSite(resolved, site, texts, config.run_dir, events)
    program = SiteProgram(bytes.fromhex(resolved.job_id), site, trust, worker, events)
    spare = resolved.job.quorum < len(resolved.job.sites.names)
    serve_forever(config.socket, program, events, spare=spare)


if __name__ == "__main__":
    sys.exit(run_program(work))
