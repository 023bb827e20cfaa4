"""Whole federated jobs with a budget of privacy, on a model that is made in a second.

    Jobs(folder, "site", model, data).figures(report)

Server enclave, site enclaves and accelerators are objects of one process; between them pass the
sealed bytes that a network would carry. The tokenizer and the rows are those of the demo.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sealtune.accelerator.engine import Engine
from sealtune.cli.signing import throw_away
from sealtune.job.events import Event
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import JobSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.launch.parties import MANIFEST, admit_party, line_up
from sealtune.methods.federated.server import FederatedServer
from sealtune.methods.federated.site_trainer import SiteTrainer
from sealtune.model.load import quiet
from sealtune.offload.in_process import InProcess
from sealtune.offload.session import OffloadSession
from sealtune.party.driver import Driver
from sealtune.party.site_program import SiteProgram
from sealtune.plan.resolve import resolve

SITES = ("north", "south")
BUDGET = 4.3
NOISE = {"site": 2.0, "example": 1.0}  # for three of five rounds
_FILES = ("tokenizer.json", "tokenizer_config.json")


class Jobs:
    """Jobs with one unit of privacy.

    Args:
        folder: for everything that they write.
        unit: whose presence is hidden.
        model: folder with the demo's tokenizer.
        data: folder with the demo's sets.
    """

    def __init__(self, folder: Path, unit: str, model: Path, data: Path) -> None:
        self._folder, self._unit = folder / unit, unit
        self._folder.mkdir()
        base = self._folder / "model"
        _tiny_model(base, model)
        for part, rows in (("train", 120), ("test", 24)):
            lines = (data / "icd10" / f"{part}.jsonl").read_text().splitlines()[:rows]
            (self._folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
        self._job = Job(
            job=JobSpec(name="budget", rounds=5, seed=1),
            model=ModelSpec(path=str(base)),
            data=DataSpec(
                train=self._folder / "train.jsonl",
                test=self._folder / "test.jsonl",
                max_tokens=16,
            ),
            sites=SitesSpec(names=SITES, partition="dirichlet", alpha=100.0),
            tuning=TuningSpec.model_validate({"rank": 4}),
            train=TrainSpec(steps_per_round=2, batch_size=8, learning_rate=5e-3),
            privacy=PrivacySpec.model_validate(
                {"unit": unit, "epsilon": BUDGET, "noise_multiplier": NOISE[unit]}
            ),
        )

    def figures(self, report: Callable[[str], None]) -> dict[str, Any]:
        """What an uninterrupted job and one that is resumed twice have spent."""
        whole = _Run(self._job, self._folder / "whole")
        whole.carry(whole.server(resume=False), 100)
        broken = _Run(self._job, self._folder / "broken")
        broken.carry(broken.server(resume=False), 4)  # handshake, evaluation; dies in round 1
        broken.carry(broken.server(resume=True), 4)  # handshake, round 1; dies in round 2
        broken.carry(broken.server(resume=True), 100)
        report(f"budget, unit {self._unit}")
        return {
            "budget": BUDGET,
            "allowed": whole.allowed,
            "trained": len(whole.of("round")) - 1,
            "spent": whole.of("privacy")[-1]["epsilon"],
            "spent_resumed": broken.of("privacy")[-1]["epsilon"],
            "ended": whole.of("privacy")[-1]["ended"],
            "released": all((whole.folder / "sites" / s / "adapter").is_dir() for s in SITES),
        }


class _Run:
    """One job's processes as objects."""

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir()
        (folder / MANIFEST).write_bytes(throw_away(resolve(job)).encode())
        self.folder = folder
        self._parties = {p.site or p.role: p for p in line_up(job, folder, keys={})}
        self._events: list[dict[str, Any]] = []
        self._admitted = admit_party(self._parties["server"])
        self.allowed = self._admitted.manifest.rounds
        self._sites = {site: self._site(site) for site in SITES}

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Events of one kind."""
        return [event for event in self._events if event["event"] == kind]

    def server(self, *, resume: bool) -> Driver:
        """A fresh server enclave."""
        admitted = dataclasses.replace(self._admitted, resumes=resume)
        return Driver(FederatedServer(admitted, self._emit), admitted, self._emit)

    def carry(self, server: Driver, exchanges: int) -> None:
        """Messages to and fro, for so many exchanges or until the job is done."""
        for _ in range(exchanges):
            outgoing = server.next()
            if outgoing is None:
                return
            for site, message in outgoing.items():
                server.reply(site, self._sites[site].deliver(message))

    def _emit(self, event: Event) -> None:
        self._events.append(event.fields())

    def _site(self, site: str) -> SiteProgram:
        admitted = admit_party(self._parties[site])
        plan = admitted.plan
        engine = Engine(Path(plan.backbone.path), [g.model_dump() for g in plan.groups])
        session = OffloadSession(
            InProcess(engine, plan.groups), plan, integrity_bits=40, owner=f"budget/{site}"
        )
        return SiteProgram(admitted, SiteTrainer(admitted, session, self._emit), self._emit)


def _tiny_model(folder: Path, demo: Path) -> None:
    """A random Llama of two blocks, with the demo's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(demo)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    for name in _FILES:
        shutil.copy(demo / name, folder / name)
