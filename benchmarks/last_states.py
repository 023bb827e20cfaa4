"""A real model that trains in milliseconds: all below its last MLP is computed once and kept.

A text is classified from its last token alone, and so the last block's MLP, the final norm and the
head see one vector a text. What is frozen below them is run once; LoRA on that MLP and the head are
trained on its results. Weights, texts, first values, optimizer and adapter are the product's own.

    states = last_states("icd10", train=4000, test=2000)
    top = Top(seed=1, labels=states.labels)
    local_round(top.model, top, states.train.part(rows), ...)

Files lie below ``cache_folder() / "benchmarks"``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from cut_data import CutSpec, benchmark_cache, label_names, text_rows, text_task
from sealtune.job.sections import LoraSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import write_atomic
from sealtune.model.batches import sorted_batches
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import Outcome, base_model
from sealtune.tuning.apply import apply_tuning

MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class StateBatch:
    """Some texts: what enters the MLP's norm, float32 [B, D], and class numbers, int64 [B]."""

    states: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        """One a text."""
        return len(self.states)


@dataclass(frozen=True)
class States:
    """Texts of one part of a data set, as ``StateBatch``."""

    states: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Sequence[int]:
        """All texts are of one vector."""
        return [1] * len(self)

    def batch(self, chosen: Sequence[int]) -> StateBatch:
        """The texts with these numbers."""
        return StateBatch(self.states[list(chosen)], self.labels[list(chosen)])

    def part(self, chosen: Sequence[int]) -> States:
        """The texts with these numbers, as a data set."""
        return States(self.states[list(chosen)], self.labels[list(chosen)])

    def relabelled(self, labels: Tensor) -> States:
        """The same texts under other labels."""
        return replace(self, labels=labels)


@dataclass(frozen=True)
class LastStates:
    """Both parts of a data set, and its class names."""

    labels: tuple[str, ...]
    train: States
    test: States


class Top:
    """The last MLP with LoRA, the final norm and the head: a model and a task in one.

    Attributes:
        model: a PeftModel of which only its last MLP, norm and head are used.
    """

    def __init__(self, spec: ModelSpec, labels: Sequence[str], seed: int, rank: int = 8) -> None:
        self.labels = tuple(labels)
        whole = load_model(spec, len(labels))
        _, blocks = find_blocks(whole)
        last = len(blocks) - 1
        lora = LoraSpec(rank=rank, alpha=2 * rank, targets=MLP, layers=(last,))
        self.model = apply_tuning(whole, TuningSpec(lora=lora), "classification", seed)
        self._block = blocks[last]

    def logits(self, batch: StateBatch) -> Tensor:
        """Scores of the classes, float32 [B, labels]."""
        base, block, states = base_model(self.model), self._block, batch.states
        after = states + block.mlp(block.post_attention_layernorm(states))
        scores: Tensor = base.score(base.model.norm(after))
        return scores

    def loss(self, _model: nn.Module, batch: StateBatch) -> Tensor:
        """As of a ``Task``."""
        return functional.cross_entropy(self.logits(batch), batch.labels)

    def outcome(self, _model: nn.Module, batch: StateBatch) -> Outcome:
        """As of a ``Task``."""
        logits = self.logits(batch)
        predicted = logits.argmax(dim=1)
        return Outcome(
            correct=int((predicted == batch.labels).sum()),
            total=len(predicted),
            loss_sum=float(functional.cross_entropy(logits, batch.labels, reduction="sum")),
            predicted=tuple(predicted.tolist()),
        )


def last_states(spec: CutSpec) -> LastStates:
    """Read the states, computing them first if they are not there.

    Args:
        spec: which rows of which model; its cut and form are those of nothing here.
    """
    file = benchmark_cache() / f"last-{spec.file().stem.removeprefix('cut-')}.safetensors"
    if not file.is_file():
        labels, tensors = _compute(spec)
        write_atomic(file, save(tensors, metadata={"labels": json.dumps(labels)}))
    with safe_open(file, framework="pt") as opened:
        labels = tuple(json.loads(opened.metadata()["labels"]))
        train, test = (
            States(opened.get_tensor(f"{part}.states"), opened.get_tensor(f"{part}.labels"))
            for part in ("train", "test")
        )
    return LastStates(labels, train, test)


class _FarEnoughError(Exception):
    """Nothing above is needed."""


def _compute(spec: CutSpec) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Run the model up to its last MLP."""
    task = text_task(spec, load_tokenizer(spec.model_spec), label_names(spec))
    model: Any = load_model(spec.model_spec, len(task.labels))
    seen: list[Tensor] = []

    def stop(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(inputs[0])
        raise _FarEnoughError

    find_blocks(model)[1][-1].post_attention_layernorm.register_forward_pre_hook(stop)
    tensors: dict[str, Tensor] = {}
    for part, count in (("train", spec.train), ("test", spec.test)):
        rows = text_rows(spec, part, task.labels, count)
        texts = task.encode(rows)
        states = torch.empty(len(rows), model.config.hidden_size)
        for chosen in sorted_batches(texts.lengths, 32):
            batch = texts.batch(chosen)
            with torch.no_grad():
                try:
                    model(**batch.inputs())
                except _FarEnoughError:
                    hidden = seen.pop()
            states[list(chosen)] = hidden[torch.arange(len(chosen)), batch.lengths - 1]
        tensors |= {
            f"{part}.states": states,
            f"{part}.labels": torch.tensor([r.label for r in rows]),
        }
    return task.labels, tensors
