"""A whole federation in one process: aggregator and site enclaves pass bytes, no Flower between."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.prefix import PlainBlocks
from sealtune.channel.pad_key import load_pad_key
from sealtune.cli.signing import throw_away
from sealtune.errors import SealtuneError
from sealtune.job.dsse import Envelope
from sealtune.job.events import Event
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.local import Local
from sealtune.job.manifest import open_manifest
from sealtune.job.sections import NetworkSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import Job
from sealtune.job.training_events import CutTexts
from sealtune.launch.parties import MANIFEST, PAD_KEY, admit_party, line_up
from sealtune.methods.federated.in_place import InPlace
from sealtune.methods.federated.server import FederatedServer
from sealtune.methods.federated.site_trainer import SiteTrainer
from sealtune.offload.in_process import InProcess
from sealtune.offload.pads import PadSource
from sealtune.offload.second import SecondSource
from sealtune.offload.session import OffloadSession
from sealtune.pad_accelerator.server import Server
from sealtune.party.admit import Admitted
from sealtune.party.driver import Driver
from sealtune.party.events import Emit
from sealtune.party.found import differences
from sealtune.party.site_program import SiteProgram
from sealtune.plan.resolve import resolve
from tests import sample_job
from tests.sample_job import SITES, write_texts

# (site, "down" or "up", number of the exchange from 0, body) -> body, or None to lose it
Network = Callable[[str, str, int, bytes], bytes | None]


def make_spare_job(folder: Path, base: Path, **sections: Any) -> Job:
    """Three sites, of which two make a round: the third may be away.

    Who stands out is judged under a key of the server's own, so it is only reported: two runs are
    then equal to the last bit.
    """
    sections.setdefault("aggregation", {"outliers": "report"})
    sites = SitesSpec(names=(*SITES, "west"), partition="dirichlet", alpha=5.0)
    return make_job(folder, base, sites=sites, network=NetworkSpec(min_sites=2), **sections)


def make_job(folder: Path, base: Path, **sections: Any) -> Job:
    """A tiny job whose sites' figures are shown; ``sections`` replaces whole sections."""
    train = write_texts(folder / "train.jsonl", 60, 1)
    test = write_texts(folder / "test.jsonl", 24, 2)
    values: dict[str, Any] = {
        "job": {"seed": 3, "rounds": 2},
        "data": {"max_tokens": 24},
        "sites": {"alpha": 5.0},
        "tuning": TuningSpec(rank=4),
        "train": TrainSpec(steps_per_round=3, batch_size=4, learning_rate=5e-3),
        "privacy": PrivacySpec(site_metrics=True),
    }
    return sample_job.make_job(base, train, test, **values | sections)


@dataclass
class Federation:
    """One run's processes as objects.

    Attributes:
        parties: site, or "server" -> its own file.
        run_dir: the run's folder.
        wire: every byte string that the network carried.
        models: each site's live model.
    """

    parties: dict[str, Local]
    run_dir: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    sites: dict[str, SiteProgram] = field(default_factory=dict)
    wire: list[bytes] = field(default_factory=list)
    models: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def resolved(self) -> Admitted:
        """The job, as the server enclave admits it."""
        return admit_party(self.parties["server"])

    def emitter(self, role: str) -> Emit:
        """Keeps the events of one process."""

        def emit(event: Event) -> None:
            stated = event.fields()
            self.events.append({"role": role, **json.loads(json.dumps(stated, allow_nan=False))})

        return emit

    def of(self, kind: str, role: str | None = None) -> list[dict[str, Any]]:
        """Events of one kind, of one process or all."""
        return [e for e in self.events if e["event"] == kind and role in (None, e["role"])]

    def start_site(self, site: str) -> None:
        """A fresh site enclave, with an accelerator of its own where the job has any."""
        admitted = admit_party(self.parties[site])
        session = self._session(admitted, site) if admitted.settings.accelerated else InPlace()
        emit = self.emitter(f"client:{site}")
        for fields in admitted.holdings.truncated:
            emit(CutTexts(site=site, **fields))
        worker = SiteTrainer(admitted, session, emit)
        self.sites[site] = SiteProgram(admitted, worker, emit)
        self.models[site] = worker._model

    def _session(self, admitted: Admitted, site: str) -> OffloadSession:
        plan, job = admitted.plan, admitted.job
        backbone = Path(plan.backbone.path)
        prefix = None
        if plan.prefix_blocks:
            prefix = PlainBlocks(job.model.path, None, plan.prefix_blocks, backbone)
        engine = Engine(backbone, [g.model_dump() for g in plan.groups], prefix=prefix)
        accelerator = InProcess(engine, plan.groups)
        pads = self.pads(admitted, engine) if admitted.manifest.pad_accelerators else None
        owner = f"test/{site}"
        return OffloadSession(accelerator, plan, integrity_bits=40, owner=owner, pads=pads)

    def pads(self, admitted: Admitted, engine: Engine) -> PadSource:
        """Of a pad accelerator of the site's own, which multiplies with ``engine``."""
        one = admitted.manifest.pad_accelerators[admitted.site]
        terms = {"job_id": bytes.fromhex(admitted.job_id)}
        key = load_pad_key(self.run_dir / PAD_KEY)
        sites = (admitted.site,)
        server = Server(engine, "tcp:127.0.0.1:0", key=key, sites=sites, **terms)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        public = bytes.fromhex(one.key)
        return SecondSource.connect(
            f"tcp:127.0.0.1:{server.port}",
            admitted.plan.groups,
            key=public,
            site=admitted.site,
            **terms,
        )

    def aggregator(self, *, resume: bool = False) -> Driver:
        """A fresh server enclave."""
        admitted, emit = resumed(self.resolved, resume), self.emitter("server")
        return Driver(FederatedServer(admitted, emit), admitted, emit)

    def run(
        self,
        aggregator: Driver,
        *,
        exchanges: int = 100,
        network: Network = lambda site, way, number, body: body,
    ) -> None:
        """Carry messages until the job is done, or for ``exchanges`` exchanges.

        The last site answers first, so that nothing can depend on the order.
        """
        for number in range(exchanges):
            outgoing = aggregator.next()
            if outgoing is None:
                return
            for site, message in reversed([*outgoing.items()]):
                answer = self._carry(site, number, message, network)
                if isinstance(answer, str):
                    aggregator.absent(site, answer)
                else:
                    aggregator.reply(site, answer)

    def _carry(self, site: str, number: int, message: bytes, network: Network) -> bytes | str:
        body = network(site, "down", number, message)
        if body is None:
            return "no answer before the deadline"
        self.wire.append(body)
        try:
            answer = network(site, "up", number, self.sites[site].deliver(body))
        except SealtuneError as error:
            return error.message
        if answer is None:
            return "no answer before the deadline"
        self.wire.append(answer)
        return answer


def resumed(admitted: Admitted, resume: bool) -> Admitted:
    """The same, to go on from the checkpoint or not."""
    return dataclasses.replace(admitted, resumes=resume)


def sign_job(
    job: Job, run_dir: Path, envelope: Envelope | None = None, keys: dict[str, Path] | None = None
) -> dict[str, Local]:
    """A run's folder with a signed manifest, as it is if there; each party's own file.

    Args:
        envelope: the signed manifest; default: one that every site signed.
        keys: key files of sites that sign.
    """
    run_dir.mkdir(exist_ok=True)
    if not is_signed(job, run_dir):
        signed = envelope or throw_away(resolve(job), pad_key=run_dir / PAD_KEY)
        (run_dir / MANIFEST).write_bytes(signed.encode())
    parties = line_up(job, run_dir, keys=keys or {}, history=run_dir / "jobs")
    return {party.site or party.role: party for party in parties}


def is_signed(job: Job, run_dir: Path) -> bool:
    """Whether the folder holds a manifest of this job."""
    if not (run_dir / MANIFEST).exists():
        return False
    manifest = open_manifest(Envelope.read(run_dir / MANIFEST))
    return not differences(manifest.settings, job.settings)


def make_federation(job: Job, run_dir: Path, envelope: Envelope | None = None) -> Federation:
    """Sign ``job`` and start its sites."""
    federation = Federation(sign_job(job, run_dir, envelope), run_dir)
    for site in job.sites.names:
        federation.start_site(site)
    return federation
