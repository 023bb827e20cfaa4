"""``python -m sealtune.owner.site LOCAL.json``: a site's process in a split job.

Checks the job for itself, loads its data and the first blocks of the model, and answers messages
that the node delivers. It proves who it is with its organisation's key, and talks to nobody but a
server enclave whose evidence the manifest accepts.

Trust domain: data owner. The node is untrusted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.job.local import read_local
from sealtune.job.training_events import CutTexts
from sealtune.owner.bottom_site import BottomSite
from sealtune.party.admit import admit
from sealtune.party.events import EventLines, run_program
from sealtune.party.node_link import serve_forever
from sealtune.party.site_program import SiteProgram
from sealtune.plan.roles import OWNER_SITE


def work(events: EventLines) -> None:
    """The whole life of a site's process."""
    admitted = admit(read_local(Path(sys.argv[1])), OWNER_SITE)
    for fields in admitted.holdings.truncated:
        events(CutTexts(site=admitted.site, **fields))
    program = SiteProgram(admitted, BottomSite(admitted, events), events)
    serve_forever(admitted.local.listen, program, events, spare=admitted.is_spare)


if __name__ == "__main__":
    sys.exit(run_program(work))
