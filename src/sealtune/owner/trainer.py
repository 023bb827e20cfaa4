"""``python -m sealtune.owner.trainer LOCAL.json``: a site's process under secure aggregation.

Checks the job for itself, loads its data and the whole model, trains on this machine, and answers
messages that the node delivers: what leaves is masked, so that only a sum can be read. It proves
who it is with its organisation's key, and believes nothing that the server says.

Trust domain: data owner. Node and server are untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.errors import ConfigError, Problem
from sealtune.job.key_files import load_private
from sealtune.job.local import Local, read_local
from sealtune.job.training_events import CutTexts
from sealtune.methods.federated.in_place import InPlace
from sealtune.methods.federated.site_trainer import SiteTrainer
from sealtune.owner.masked_site import MaskedSite
from sealtune.party.admit import admit
from sealtune.party.events import EventLines, run_program
from sealtune.party.node_link import serve_forever
from sealtune.party.site_program import SiteProgram
from sealtune.plan.roles import OWNER_TRAINER


def own_key(local: Local) -> Ed25519PrivateKey:
    """The organisation's key, which ``admit`` has held against the manifest."""
    if local.key is None:
        raise ConfigError("local file", [Problem("key", "is missing: the owner-trainer needs it")])
    return load_private(local.key)


def work(events: EventLines) -> None:
    """The whole life of a site's process."""
    local = read_local(Path(sys.argv[1]))
    admitted = admit(local, OWNER_TRAINER)
    key = own_key(local)
    for fields in admitted.holdings.truncated:
        events(CutTexts(site=admitted.site, **fields))
    trainer = SiteTrainer(admitted, InPlace(), events)
    site = MaskedSite(admitted, key, trainer)
    program = SiteProgram(admitted, site, events)
    serve_forever(local.listen, program, events, spare=admitted.is_spare)


if __name__ == "__main__":
    sys.exit(run_program(work))
