"""A task on cut activations: what a whole model learns from texts, a top learns from samples.

    task = CutTask(make_task(...), entry, read, width)
    local_round(top, task, samples, ...)        # the same code that trains on texts

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sealtune.model.cut import CutEntry
from sealtune.model.tasks import Batch, Example, Outcome, Task, padded


@dataclass(frozen=True)
class Sample:
    """One text of a site, of which only cut activations are here.

    Attributes:
        site: whose it is.
        number: of the sample at its site, from 0.
        tokens: its length.
        label: class number, or None for ``causal-lm``.
    """

    site: str
    number: int
    tokens: int
    label: int | None
    text: str = ""  # never here; an ``Example`` has one


@dataclass(frozen=True)
class Contents:
    """What was sent of a sample.

    Attributes:
        activations: float32 [T, D].
        ids: int64 [T], the tokens, which ``causal-lm`` learns to predict; None for other tasks.
    """

    activations: Tensor
    ids: Tensor | None


@dataclass(frozen=True)
class CutBatch(Batch):
    """A batch with the cut activations, float32 [B, T, D], zeros at padding."""

    activations: Tensor


class CutTask(Task):
    """Wraps a task so that it reads samples instead of texts.

    Args:
        inner: loss and metrics.
        entry: where the activations enter the model.
        read: fetches a sample's contents.
    """

    def __init__(self, inner: Task, entry: CutEntry, read: Callable[[Sample], Contents]) -> None:
        self.name = inner.name
        self.labels = inner.labels
        self.tokenizer = inner.tokenizer
        self.max_tokens = inner.max_tokens
        self._inner = inner
        self._entry = entry
        self._read = read

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Tokens of each sample."""
        return [cast(Sample, example).tokens for example in examples]

    def collate(self, examples: Sequence[Example]) -> CutBatch:
        """Read and pad samples into one batch."""
        samples = [cast(Sample, example) for example in examples]
        contents = [self._read(sample) for sample in samples]
        lengths = torch.tensor([sample.tokens for sample in samples])
        width = padded(int(lengths.max()))
        pad = int(self.tokenizer.pad_token_id)
        # any id but the padding's will do where the task does not look: heads count by it
        ids = torch.where(torch.arange(width) < lengths[:, None], int(pad == 0), pad)
        size = contents[0].activations.shape[1]
        activations = torch.zeros(len(samples), width, size)
        for i, found in enumerate(contents):
            activations[i, : len(found.activations)] = found.activations
            if found.ids is not None:
                ids[i, : len(found.ids)] = found.ids
        numbers = [sample.label for sample in samples]
        known = all(number is not None for number in numbers)
        return CutBatch(ids, lengths, torch.tensor(numbers) if known else None, activations)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the inner task's."""
        self._feed(batch)
        return self._inner.loss(model, batch)

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        """As the inner task's."""
        self._feed(batch)
        return self._inner.outcome(model, batch)

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the inner task's."""
        self._feed(batch)
        return self._inner.scores(model, batch)

    def next_tokens(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the inner task's."""
        self._feed(batch)
        return self._inner.next_tokens(model, batch)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """As the inner task's."""
        self._feed(batch)
        return self._inner.logits(model, batch)

    def _feed(self, batch: Batch) -> None:
        self._entry.feed(cast(CutBatch, batch).activations)
