"""Whole jobs as objects of one process, between which pass the sealed bytes of a network.

    outcome = run_job(job, folder)
    outcome.of("final")[0]["correct"]

Manifest, handshakes, checks, masks and codes are those of a run, by the same programs; there is no
Flower between them, an accelerator has no process of its own, and nobody's memory is his alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.prefix import PlainBlocks
from sealtune.cli.signing import throw_away
from sealtune.job.events import Event
from sealtune.job.key_files import load_private, new_key
from sealtune.job.spec import Job
from sealtune.launch.parties import MANIFEST, admit_party, line_up
from sealtune.methods.federated.in_place import InPlace
from sealtune.methods.federated.server import FederatedServer
from sealtune.methods.federated.site_trainer import Session, SiteTrainer
from sealtune.methods.secure_aggregation.server import SumServer
from sealtune.methods.split.server import SplitServer
from sealtune.offload.in_process import InProcess
from sealtune.offload.session import OffloadSession
from sealtune.owner.bottom_site import BottomSite
from sealtune.owner.masked_site import MaskedSite
from sealtune.party.admit import Admitted
from sealtune.party.driver import Driver, Server
from sealtune.party.site_program import SiteProgram, Worker
from sealtune.plan.resolve import resolve

Fields = dict[str, Any]  # of an event


@dataclass(frozen=True)
class Outcome:
    """What a job left.

    Attributes:
        folder: of the run: ``sites/NAME/adapter`` if it was released.
        events: of server and sites, in order.
        up, down: sealed bytes from all sites, and to them.
        seconds: from the first message to the last; loading is not among them.
    """

    folder: Path
    events: list[Fields]
    up: int
    down: int
    seconds: float

    def of(self, kind: str) -> list[Fields]:
        """Events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def adapter(self, site: str) -> Path:
        """The folder of a site's released adapter."""
        return self.folder / "sites" / site / "adapter"


def run_job(job: Job, folder: Path, *, advance: Callable[[int], None] | None = None) -> Outcome:
    """A job from its manifest to the last message.

    Args:
        job: of any method; pads are made in the enclave.
        folder: of the run; must not exist.
        advance: told the number of messages exchanged.

    Raises:
        SealtuneError: it failed.
    """
    objects = Objects(job, folder)
    server, begun = objects.server(), time.perf_counter()
    objects.carry(server, advance=advance)
    seconds = round(time.perf_counter() - begun, 3)
    return Outcome(folder, objects.events, objects.up, objects.down, seconds)


class Objects:
    """The programs of one job.

    Args:
        job: see ``run_job``.
        folder: see ``run_job``.

    Attributes:
        admitted: the job, as the server knows it.
        events: what the programs said, in order.
        up, down: sealed bytes so far.
    """

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._keys = {site: new_key(site, folder / "keys")[0] for site in job.sites.names}
        private = {site: load_private(path) for site, path in self._keys.items()}
        (folder / MANIFEST).write_bytes(throw_away(resolve(job), private).encode())
        signed = self._keys if job.job.rules.sites_sign else {}
        parties = {p.site or p.role: p for p in line_up(job, folder, keys=signed)}
        self.events: list[Fields] = []
        self.up = self.down = 0
        self.admitted = admit_party(parties["server"])
        self._sites = {site: self._site(admit_party(parties[site])) for site in job.sites.names}

    def of(self, kind: str) -> list[Fields]:
        """Events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def emit(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event.fields())

    def program(self, *, resume: bool = False) -> Server:
        """A fresh server enclave's program; ``resume``: from its checkpoint."""
        admitted = dataclasses.replace(self.admitted, resumes=resume)
        return SERVERS[admitted.manifest.method](admitted, self.emit)

    def server(self, program: Server | None = None, *, resume: bool = False) -> Driver:
        """A fresh server enclave; ``program``: with this one."""
        admitted = dataclasses.replace(self.admitted, resumes=resume)
        return Driver(program or self.program(resume=resume), admitted, self.emit)

    def carry(
        self,
        server: Driver,
        exchanges: int | None = None,
        *,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Messages to and fro, for so many exchanges or until the job is done."""
        number = 0
        while exchanges is None or number < exchanges:
            if (outgoing := server.next()) is None:
                return
            for site, message in outgoing.items():
                answer = self._sites[site].deliver(message)
                self.down += len(message)
                self.up += len(answer)
                server.reply(site, answer)
            number += 1
            if advance:
                advance(number)

    def _site(self, admitted: Admitted) -> SiteProgram:
        return SiteProgram(admitted, self._worker(admitted), self.emit)

    def _worker(self, admitted: Admitted) -> Worker:
        rules = admitted.job.job.rules
        if rules.server_trains:
            return BottomSite(admitted, self.emit)
        trainer = SiteTrainer(admitted, _session(admitted), self.emit)
        if not rules.sums_only:
            return trainer
        key = load_private(self._keys[admitted.site])
        return MaskedSite(admitted, key, trainer)


SERVERS: Mapping[str, Callable[[Admitted, Callable[[Event], None]], Server]] = {
    "federated-lora": FederatedServer,
    "federated-lora-secagg": SumServer,
    "split": SplitServer,
}


def _session(admitted: Admitted) -> Session:
    """What multiplies: an accelerator in this process, or whoever trains."""
    if not admitted.settings.accelerated:
        return InPlace()
    plan = admitted.plan
    backbone, prefix = Path(plan.backbone.path), None
    if plan.prefix_blocks:
        model = admitted.job.model
        prefix = PlainBlocks(model.path, model.revision, plan.prefix_blocks, backbone)
    engine = Engine(
        backbone,
        [group.model_dump() for group in plan.groups],
        prefix=prefix,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    return OffloadSession(
        InProcess(engine, plan.groups),
        plan,
        integrity_bits=admitted.job.protection.integrity_bits,
        owner=f"{admitted.job_id}/{admitted.site}",
    )
