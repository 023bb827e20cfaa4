"""A real model that trains in milliseconds: all below its last linear layer is computed once.

A text is classified from its last token alone, and so the last layer (``down_proj``), the final
norm and the head see one vector a text. What is frozen below is run once; LoRA on that layer and
the head are trained on it. Weights, texts, first values, optimizer and adapter are the product's.

    states = states_of(load_model(spec, len(labels)), texts)
    top = Top(spec, labels, seed=1)
    local_round(top.model, top, states.part(rows), ...)

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sealtune.audit.subject import Subject
from sealtune.errors import UnsupportedModelError
from sealtune.job.sections import LoraSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.model.batches import sorted_batches
from sealtune.model.load import load_config, load_model
from sealtune.model.partial import load_part
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import Outcome, base_model
from sealtune.model.texts import Texts
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.tuning.apply import apply_tuning

TARGETS = ("down_proj",)
ABSENT = -100  # the label of a row that is counted, and adds nothing to loss and gradients
_BATCH = 32
_BOUND = 1e-4  # of what goes into the final norm, relative: float32


def applies(subject: Subject) -> str:
    """Why a run's model has no such last layer; empty: it has one."""
    if subject.job.model.task != "classification":
        return "the job trains no head on classes, which is what this attack is carried out on"
    model = load_model(subject.job.model, len(subject.labels), meta=True)
    block = find_blocks(model)[1][-1]
    linear = hasattr(getattr(block, "mlp", None), TARGETS[0])
    return "" if linear else f"the model's last linear layer is not called {TARGETS[0]}"


@dataclass(frozen=True)
class StateBatch:
    """Some texts.

    Attributes:
        states: what goes past the MLP, float32 [B, D].
        inner: what enters its last layer, float32 [B, H].
        labels: class numbers, int64 [B].
    """

    states: Tensor
    inner: Tensor
    labels: Tensor

    @property
    def tokens(self) -> int:
        """One a text."""
        return len(self.states)


@dataclass(frozen=True)
class States:
    """Texts of one part of a data set, as ``StateBatch``."""

    states: Tensor
    inner: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Sequence[int]:
        """All texts are of one vector."""
        return [1] * len(self)

    def batch(self, chosen: Sequence[int]) -> StateBatch:
        """The texts with these numbers."""
        rows = list(chosen)
        return StateBatch(self.states[rows], self.inner[rows], self.labels[rows])

    def part(self, chosen: Sequence[int]) -> States:
        """The texts with these numbers, as a data set."""
        batch = self.batch(chosen)
        return States(batch.states, batch.inner, batch.labels)

    def joined(self, other: States) -> States:
        """These texts and others."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return States(*(torch.cat(pair) for pair in pairs))

    def relabelled(self, labels: Tensor) -> States:
        """The same texts under other labels."""
        return replace(self, labels=labels)


class Top:
    """The last layer with LoRA, the final norm and the head: a model and a task in one.

    Attributes:
        model: a PeftModel of which nothing else is used.
    """

    def __init__(self, spec: ModelSpec, labels: Sequence[str], seed: int, rank: int = 8) -> None:
        self.labels = tuple(labels)
        last = int(load_config(spec).num_hidden_layers) - 1
        top = load_part(spec, len(labels), last, "top")
        tuning = TuningSpec(lora=LoraSpec(rank=rank, alpha=2 * rank, targets=TARGETS))
        self.model = apply_tuning(top, tuning, "classification", seed, first_block=last)
        self._block: Any = find_blocks(top)[1][-1]
        self._first = {n: t.clone() for n, t in trainable_state(self.model).items()}

    def reset(self) -> None:
        """Forget what was trained: back to the first values."""
        load_trainable_state(self.model, self._first)

    def logits(self, batch: StateBatch) -> Tensor:
        """Scores of the classes, float32 [B, labels]."""
        base = base_model(self.model)
        after = batch.states + self._block.mlp.down_proj(batch.inner)
        scores: Tensor = base.score(base.model.norm(after))
        return scores

    def scores(self, rows: States) -> Tensor:
        """Of each text and class, float32 [n, labels]."""
        with torch.no_grad():
            return self.logits(rows.batch(range(len(rows))))

    def answers(self, rows: States) -> Tensor:
        """Class of each text, int64 [n]."""
        return self.scores(rows).argmax(dim=1)

    def right(self, rows: States) -> float:
        """Share of right answers."""
        return float((self.answers(rows) == rows.labels).float().mean())

    def loss(self, _model: nn.Module, batch: StateBatch) -> Tensor:
        """As of a ``Task``."""
        return functional.cross_entropy(self.logits(batch), batch.labels, ignore_index=ABSENT)

    def losses(self, _model: nn.Module, batch: StateBatch) -> Tensor:
        """As of a ``Task``; of rows whose label is ``ABSENT`` zero, and so is their gradient."""
        logits = self.logits(batch)
        return functional.cross_entropy(logits, batch.labels, ignore_index=ABSENT, reduction="none")

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


class _FarEnoughError(Exception):
    """Nothing above is needed."""


def states_of(model: Any, texts: Texts) -> States:
    """Run the model up to its last linear layer.

    Args:
        model: whole, with a classification head.
        texts: with their labels.

    Raises:
        UnsupportedModelError: more is done between that layer and the final norm than to add.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0]
            if name == "after":
                raise _FarEnoughError

        return hook

    block: Any = find_blocks(model)[1][-1]
    places = {
        "states": block.post_attention_layernorm,
        "inner": block.mlp.down_proj,
        "after": model.model.norm,
    }
    kept: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(texts)
    with ExitStack() as hooks, torch.no_grad():
        for name, module in places.items():
            hooks.enter_context(module.register_forward_pre_hook(keep(name)))
        for chosen in sorted_batches(texts.lengths, _BATCH):
            batch = texts.batch(chosen)
            with suppress(_FarEnoughError):
                model(**batch.inputs())
            last = torch.arange(len(chosen)), batch.lengths - 1
            states, inner, after = (seen[name][last] for name in places)
            made = states + functional.linear(inner, block.mlp.down_proj.weight)
            if not (made - after).norm() <= _BOUND * after.norm():
                raise UnsupportedModelError(
                    f"{type(model).__name__} does more than add its last linear layer's output",
                    hint="audit a Llama, SmolLM, Qwen or Mistral model",
                )
            for i, one in zip(chosen, zip(states, inner, strict=True), strict=True):
                kept[i] = one
    below, inner = (torch.stack(one) for one in zip(*kept, strict=True))
    return States(below, inner, torch.tensor([int(label or 0) for label in texts.labels]))
