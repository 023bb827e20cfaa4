"""Texts as a model reads them: tokenised once, kept as numbers, handed out in padded batches.

    texts = task.encode(examples)
    batch = texts.batch([3, 0, 7])
    model(**batch.inputs())

Texts are padded on the right up to a multiple of 8 tokens, so that what an onlooker sees of their
length is coarse.

Trust domain: client enclave; data owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sealtune.errors import DataError

BUCKET = 8  # tokens


def padded(tokens: int) -> int:
    """``tokens`` rounded up to whole buckets."""
    return -(-tokens // BUCKET) * BUCKET


class Example(Protocol):
    """One text and, where the task has classes, the number of its class."""

    @property
    def text(self) -> str:
        """The rendered template."""

    @property
    def label(self) -> int | None:
        """Class number, or None."""

    @property
    def row(self) -> int:
        """Number in its file, from 1, for messages; 0: it is of no file."""


@dataclass(frozen=True)
class Batch:
    """What a model gets in one step.

    Attributes:
        input_ids: int64 [B, T], padded on the right; T is a multiple of 8.
        lengths: int64 [B], tokens of each text without padding.
        labels: int64 [B] class numbers, or None.
        shows_padding: the model gets an attention mask, for those who watch it.
    """

    input_ids: Tensor
    lengths: Tensor
    labels: Tensor | None
    shows_padding: bool = field(default=False, kw_only=True)

    @property
    def tokens(self) -> int:
        """B * T, padding included: the number of rows of every masked product."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        moved: dict[str, Any] = {
            name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)
        }
        return replace(self, **moved)

    @property
    def attention_mask(self) -> Tensor:
        """int64 [B, T]: 1 for text, 0 for padding. From lengths, since texts may hold pad ids."""
        positions = torch.arange(self.input_ids.shape[1], device=self.lengths.device)
        return (positions < self.lengths[:, None]).to(torch.int64)

    @property
    def predicted(self) -> tuple[Tensor, Tensor]:
        """Which positions have a next token, bool [B, T - 1], and these tokens, int64 [M].

        Raises:
            DataError: there is none.
        """
        # by length, not by pad id: the end token often has the same id
        inside = self.attention_mask[:, 1:].bool()
        if not inside.any():
            raise DataError("texts of a single token leave nothing to predict")
        return inside, self.input_ids[:, 1:][inside]

    def inputs(self) -> dict[str, Any]:
        """The arguments of the model's forward pass.

        By itself no model needs an attention mask: padding stands behind its text, where no token
        of it looks.
        """
        given = {"input_ids": self.input_ids, "use_cache": False}
        return given | {"attention_mask": self.attention_mask} if self.shows_padding else given


class Dataset(Protocol):
    """What is trained and tested on."""

    def __len__(self) -> int:
        """Number of examples."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each example."""

    def batch(self, chosen: Sequence[int], /) -> Batch:
        """The examples with these numbers."""


@dataclass(frozen=True)
class Texts:
    """Encoded texts.

    Attributes:
        ids: int32 [sum of lengths], the token ids of all texts, one after the other.
        lengths: tokens of each text.
        labels: class number of each, or None.
        pad_id: token that fills a batch up.
        truncated: how many texts were longer than ``max_tokens`` and have been cut.
    """

    ids: NDArray[np.int32]
    lengths: tuple[int, ...]
    labels: tuple[int | None, ...]
    pad_id: int
    truncated: int = 0

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.lengths)

    @property
    def ends(self) -> NDArray[np.int64]:
        """int64 [n], where each text ends in ``ids``."""
        return np.cumsum(self.lengths, dtype=np.int64)

    def rows(self, chosen: Iterable[int]) -> list[NDArray[np.int32]]:
        """Token ids of some texts, int32 [T] each."""
        ends = self.ends
        return [self.ids[ends[i] - self.lengths[i] : ends[i]] for i in chosen]

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Some texts, padded."""
        numbers = [self.labels[i] for i in chosen]
        labelled = all(number is not None for number in numbers)
        return pad(self.rows(chosen), self.pad_id, torch.tensor(numbers) if labelled else None)


@dataclass(frozen=True)
class SiteTexts:
    """All that one site has, encoded."""

    train: Texts
    test: Texts


def join(parts: Sequence[Texts]) -> Texts:
    """All texts of ``parts``, at least one, in their order."""
    return Texts(
        ids=np.concatenate([part.ids for part in parts]),
        lengths=tuple(n for part in parts for n in part.lengths),
        labels=tuple(label for part in parts for label in part.labels),
        pad_id=parts[0].pad_id,
        truncated=sum(part.truncated for part in parts),
    )


def pad(
    rows: Sequence[Sequence[int] | NDArray[np.int32]], pad_id: int, labels: Tensor | None = None
) -> Batch:
    """Pad rows of token ids into one batch."""
    ids = torch.full((len(rows), padded(max(map(len, rows)))), pad_id)  # [B, T]
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
    return Batch(ids, torch.tensor([len(row) for row in rows]), labels)
