"""One plain PEFT model on which every kind of baseline trains and tests.

Trust domain: none; for comparison only.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor

from sealtune.data.site import discover_labels, load_sites
from sealtune.job.compute_rules import Device
from sealtune.job.spec import Job
from sealtune.methods.federated.prefixed_texts import PrefixedTexts, PrefixStore
from sealtune.model.checkpointing import compute_blocks_again
from sealtune.model.compute import Compute
from sealtune.model.cut_chunk import layout_of
from sealtune.model.frozen_prefix import FrozenPrefix
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import task_of
from sealtune.model.texts import Dataset, SiteTexts, Texts, join
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import Evaluation, OnStep, RoundResult, evaluate, local_round
from sealtune.plan.personal import personal_tensors
from sealtune.plan.planner import first_block, make_plan
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import load_adapter

State = Mapping[str, Tensor]


class Workbench:
    """Model, task and all sites' data of ``job``.

    Args:
        device: where the model is trained and tested.

    Attributes:
        sites: each site's texts.
        initial: the adapter that every run starts from.
        personal: names of its tensors that stay at their site.
    """

    def __init__(self, job: Job, device: Device = "cpu") -> None:
        labels = discover_labels(job)
        self._job, self._compute = job, Compute.open(device, "fp32")
        task = task_of(job, labels, load_tokenizer(job.model))
        self._task = self._compute.task(task)
        count = len(labels) or None
        base = load_model(job.model, count)
        self.sites = {
            site: SiteTexts(self._task.encode(data.train), self._task.encode(data.test))
            for site, data in load_sites(job, labels).items()
        }

        def calibrate() -> Tensor:
            data = join([data.train for data in self.sites.values()])
            first = range(min(job.train.batch_size, len(data)))
            return task.loss(base, replace(data.batch(first), shows_padding=True))

        tuned = apply_tuning(
            base,
            job.tuning,
            job.model.task,
            job.job.seed,
            first_block=first_block(job, base.config.num_hidden_layers),
            calibrate=calibrate,
        )
        if job.train.checkpointing:
            compute_blocks_again(base)
        self._model: Any = self._compute.place(tuned)
        self.initial = self.state()
        plan = make_plan(job, count, backbone=False)
        self._first = plan.steady_blocks or plan.cut or 0
        self._rows: dict[int, tuple[Texts, Dataset]] = {}
        blocks_name, _ = find_blocks(base)
        self.personal = personal_tensors(self.initial, job.aggregation.personal, blocks_name)

    def state(self) -> dict[str, Tensor]:
        """A copy of the adapter as it is now."""
        return {name: tensor.clone() for name, tensor in trainable_state(self._model).items()}

    def train(
        self,
        state: State,
        data: Texts,
        *,
        round: int,
        site: str,
        steps: int,
        on_step: OnStep,
        first: int | None = None,
        proximal: float = 0.0,
        decays: bool = False,
    ) -> tuple[dict[str, Tensor], RoundResult]:
        """Train ``state`` on ``data`` for one round, as a client enclave would; the arguments are
        those of ``local_round``.
        """
        load_trainable_state(self._model, self._of_site(state, site))
        result = local_round(
            self._model,
            self._task,
            self._prefixed(data),
            self._job.train.model_copy(update={"steps_per_round": steps}),
            seed=self._job.job.seed,
            round=round,
            site=site,
            rounds=self._job.job.rounds,
            first=first,
            proximal=proximal,
            decays=decays,
            on_step=on_step,
        )
        return self.state(), result

    def _of_site(self, state: State, site: str) -> State:
        """``state`` at the site's rank: a direction whose B and A are zero is never trained."""
        lora = self._job.tuning.lora
        if lora is None or site not in lora.ranks:
            return state
        rank, cut = lora.ranks[site], {name: tensor.clone() for name, tensor in state.items()}
        for name, tensor in cut.items():
            if ".lora_A." in name:
                tensor[rank:] = 0
            elif ".lora_B." in name:
                tensor[:, rank:] = 0
        return cut

    def test(self, state: State) -> dict[str, Evaluation]:
        """Each site's test rows, answered with ``state``."""
        load_trainable_state(self._model, state)
        return {
            name: self._evaluate(self._model, self._prefixed(data.test))
            for name, data in self.sites.items()
        }

    def test_adapter(self, folder: Path) -> dict[str, Evaluation]:
        """The same with a released adapter.

        Raises:
            ModelError: there is none, or it is of another model.
        """
        model = self._compute.place(load_adapter(folder, base=self._job.model.path).model)
        return {name: self._evaluate(model, data.test) for name, data in self.sites.items()}

    def _evaluate(self, model: Any, rows: Dataset) -> Evaluation:
        return evaluate(model, self._task, rows, batch_size=self._job.train.eval_batch_size)

    def _prefixed(self, texts: Texts) -> Dataset:
        """``texts``, of which blocks below the first tuned one are run once, as in a client
        enclave.
        """
        if not self._first:
            return texts
        if not self._rows:
            layout = layout_of(self._job, len(self._task.labels), "fp32")
            self._store = PrefixStore(Path(mkdtemp(prefix="sealtune-")), bytes(48), layout)
            weakref.finalize(self, self._store.close)
            self._prefix = FrozenPrefix(self._model, self._first, self._compute)
        if id(texts) not in self._rows:
            rows = PrefixedTexts(texts, str(len(self._rows)), self._prefix, self._store)
            self._rows[id(texts)] = texts, rows
        return self._rows[id(texts)][1]


def weighted_mean(states: Sequence[State], weights: Sequence[int]) -> dict[str, Tensor]:
    """FedAvg: the mean of ``states`` by ``weights``, added up in float64."""
    total = sum(weights)
    mean = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in states[0].items()}
    for state, weight in zip(states, weights, strict=True):
        for name, tensor in state.items():
            mean[name] += tensor.double() * (weight / total)
    return {name: tensor.float() for name, tensor in mean.items()}
