"""What a top is trained and tested on: samples, of which only cut activations are here.

    data = Samples(samples, read, entry, task.pad_id)
    local_round(top, task, data, ...)        # the same code that trains on texts

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sealtune.model.cut import CutEntry
from sealtune.model.texts import Batch, padded


@dataclass(frozen=True)
class Sample:
    """One text of a site.

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
    """A batch of cut activations.

    Attributes:
        activations: float32 [B, T, D], zeros at padding.
        entry: where they enter the model.
    """

    activations: Tensor
    entry: CutEntry

    def inputs(self) -> dict[str, Any]:
        """As for texts; the activations take the place of what the model makes of the ids."""
        self.entry.feed(self.activations)
        return super().inputs()


@dataclass(frozen=True)
class Samples:
    """A data set (``model.texts.Dataset``) of samples that lie elsewhere until they are needed.

    Attributes:
        samples: all of them.
        read: fetches a sample's contents.
        entry: where the activations enter the model.
        pad_id: token that fills a batch up.
    """

    samples: Sequence[Sample]
    read: Callable[[Sample], Contents]
    entry: CutEntry
    pad_id: int

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each."""
        return [sample.tokens for sample in self.samples]

    def batch(self, chosen: Sequence[int]) -> CutBatch:
        """Read and pad some samples."""
        samples = [self.samples[i] for i in chosen]
        contents = [self.read(sample) for sample in samples]
        lengths = torch.tensor([sample.tokens for sample in samples])  # [B]
        width = padded(int(lengths.max()))  # T
        # any id but the padding's will do where the task does not look: heads count by it
        inside = torch.arange(width) < lengths[:, None]  # [B, T]
        ids = torch.where(inside, int(self.pad_id == 0), self.pad_id)
        activations = torch.zeros(len(samples), width, contents[0].activations.shape[1])
        for i, sent in enumerate(contents):
            activations[i, : len(sent.activations)] = sent.activations
            if sent.ids is not None:
                ids[i, : len(sent.ids)] = sent.ids
        numbers = [sample.label for sample in samples]
        labels = torch.tensor(numbers) if None not in numbers else None
        return CutBatch(ids, lengths, labels, activations, self.entry)
