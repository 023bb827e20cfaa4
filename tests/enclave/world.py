"""A whole job in one process: an aggregator, client enclaves, and a network that is a loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sealtune.attest import SimulatedAttester, SimulatedVerifier, simulated_policy
from sealtune.attest.simulated import load_key
from sealtune.data import load_site
from sealtune.enclave.aggregator_program import AggregatorProgram
from sealtune.enclave.client_program import ClientProgram
from sealtune.enclave.sealed_state import SealedState
from sealtune.enclave.site_trainer import SiteTrainer
from sealtune.enclave.trust import Trust
from sealtune.errors import SealtuneError
from sealtune.job.resolved import Resolved
from sealtune.job.spec import Job
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.lora import apply_lora
from sealtune.model.resolve import resolve
from sealtune.model.tasks import make_task
from tests.model.tiny import LABELS, make_texts

SITES = ("north", "south")


def make_job(folder: Path, model: Path, **sections: Mapping[str, Any]) -> Job:
    """A job over files that are written to ``folder``; ``sections`` overrides settings."""
    files: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    for number, site in enumerate(SITES):
        for part, count in (("train", 40 + 30 * number), ("test", 20)):
            path = folder / f"{site}-{part}.jsonl"
            texts = make_texts(count, 10 * number + (part == "test"))
            rows = [{"text": t.text, "label": LABELS[t.label or 0]} for t in texts]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            files[part][site] = str(path)
    settings: dict[str, Any] = {
        "job": {"name": "tiny", "seed": 3, "rounds": 3},
        "model": {"path": str(model), "task": "classification"},
        "data": {**files, "max_tokens": 16, "labels": LABELS},
        "sites": {"names": SITES},
        "tuning": {"rank": 2, "targets": ("q_proj", "v_proj")},
        "train": {"steps_per_round": 3, "batch_size": 8, "learning_rate": 0.01},
    }
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return Job.model_validate(settings)


def make_trust() -> Trust:
    return Trust(
        SimulatedAttester(), SimulatedVerifier(), simulated_policy(), load_key().private_bytes_raw()
    )


@dataclass
class Log:
    """Collects events."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, event: str, **fields: Any) -> None:
        json.dumps(fields, allow_nan=False)
        self.events.append({"event": event, **fields})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == kind]


def make_trainer(resolved: Resolved, site: str, out: Path, log: Log) -> SiteTrainer:
    """A site that computes everything itself."""
    job = resolved.job
    base = load_model(job.model, len(resolved.labels) or None)
    model = apply_lora(base, job.tuning, job.model.task, job.job.seed)
    task = make_task(
        job.model.task,
        load_tokenizer(job.model),
        max_tokens=job.data.max_tokens,
        template=job.data.template,
        labels=resolved.labels,
    )
    data = load_site(job, site, resolved.labels)
    return SiteTrainer(resolved, site, model, task, data, None, log, out)


class World:
    """Aggregator and sites of one job.

    Args:
        folder: run folder.
        job: the settings.
        tamper: may change or drop (None) a message: ``(site, direction, number, body)``.
    """

    def __init__(
        self,
        folder: Path,
        job: Job,
        *,
        resume: bool = False,
        tamper: Callable[[str, str, int, bytes], bytes | None] | None = None,
    ) -> None:
        self.folder = folder
        self.resolved = resolve(job).write(folder / "job.resolved.json")
        self.trust = make_trust()
        self.server_log = Log()
        self.logs = {site: Log() for site in job.sites.names}
        job_id = bytes.fromhex(self.resolved.job_id)
        self.state = SealedState(folder / "state", self.trust.sealing_key, job_id)
        self.server = AggregatorProgram(
            self.resolved, self.trust, self.state, self.server_log, resume=resume
        )
        self.clients = {site: self.client(site) for site in job.sites.names}
        self.wire: list[bytes] = []
        self.exchanges = 0
        self._tamper = tamper or (lambda _s, _d, _n, body: body)

    def client(self, site: str) -> ClientProgram:
        out = self.folder / "sites" / site / "adapter"
        trainer = make_trainer(self.resolved, site, out, self.logs[site])
        return ClientProgram(self.resolved, site, trainer, self.trust, self.logs[site])

    def exchange(self) -> bool:
        """One round trip with all sites, last site first; False when the job is done."""
        send = self.server.next()
        if send is None:
            return False
        for site, message in reversed(send.messages.items()):
            answer = self._deliver(site, message)
            if answer is None:
                self.server.absent(site, "the network lost it")
            else:
                self.server.reply(site, answer)
        self.exchanges += 1
        return True

    def run(self) -> None:
        while self.exchange():
            pass

    def _deliver(self, site: str, message: bytes) -> bytes | None:
        body = self._tamper(site, "down", self.exchanges, message)
        if body is None:
            return None
        self.wire.append(body)
        try:
            answer = self.clients[site].handle(body)
        except SealtuneError:
            return None
        changed = self._tamper(site, "up", self.exchanges, answer)
        if changed is not None:
            self.wire.append(changed)
        return changed
