"""``python -m sealtune.enclave.client LOCAL.json``: a site's enclave process.

Checks the job for itself, loads its site's data and the model, and answers messages that the node
delivers, one connection each.

Trust domain: client enclave. The node is untrusted.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.job.local import read_local
from sealtune.job.training_events import CutTexts, Products
from sealtune.methods.federated.in_place import InPlace
from sealtune.methods.federated.site_trainer import Session, SiteTrainer
from sealtune.party.admit import Admitted, admit
from sealtune.party.events import Emit, EventLines, run_program
from sealtune.party.node_link import serve_forever
from sealtune.party.site_program import SiteProgram
from sealtune.plan.roles import SITE_ENCLAVE

if TYPE_CHECKING:
    from sealtune.offload.pads import PadSource

_PATIENCE = 120.0  # seconds that the accelerator, started with us, may take to listen


def work(events: EventLines) -> None:
    """The whole life of a site's enclave."""
    admitted = admit(read_local(Path(sys.argv[1])), SITE_ENCLAVE)
    for fields in admitted.holdings.truncated:
        events(CutTexts(site=admitted.site, **fields))
    with _session(admitted, events) as session:
        program = SiteProgram(admitted, SiteTrainer(admitted, session, events), events)
        serve_forever(admitted.local.listen, program, events, spare=admitted.is_spare)


@contextlib.contextmanager
def _session(admitted: Admitted, emit: Emit) -> Iterator[Session]:
    """What multiplies: an accelerator, or this enclave itself."""
    if not admitted.settings.accelerated:
        yield InPlace()
        return
    from sealtune.native import library
    from sealtune.offload.session import OffloadSession

    with OffloadSession.connect(
        admitted.local.accelerator,
        admitted.plan,
        integrity_bits=admitted.job.protection.integrity_bits,
        owner=f"{admitted.job_id}/{admitted.site}",
        pads=_pads(admitted),
        pad_budget=admitted.job.protection.pad_budget,
        patience=_PATIENCE,
        untrusted_shm=admitted.local.untrusted_shm,
    ) as session:
        native, slow = library.instructions(), library.why_off()
        emit(Products(arithmetic=session.arithmetic, native=native, slow=slow))
        yield session


def _pads(admitted: Admitted) -> PadSource | None:
    """Where a site's pads come from that a second accelerator makes; None: from its enclave."""
    one = admitted.manifest.pad_accelerators.get(admitted.site)
    if one is None:
        return None
    from sealtune.offload.second import SecondSource

    return SecondSource.connect(
        admitted.local.pad_accelerator,
        admitted.plan.groups,
        key=bytes.fromhex(one.key),
        job_id=bytes.fromhex(admitted.job_id),
        site=admitted.site,
        patience=_PATIENCE,
    )


if __name__ == "__main__":
    sys.exit(run_program(work))
