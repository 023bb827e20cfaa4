"""A chunk of samples as a site sends them: a small head, and packed activations.

    head (JSON-able)   part, samples, tokens, and what they were made with
    body               lengths u32[n] | labels i32[n] | ids u32[tokens] (causal-lm) | activations

Chunks are cut where the bytes reach ``CHUNK``, so that every chunk follows from the data alone and
an upload that broke off goes on with the same chunk.

Trust domain: data owner (making), server enclave (reading; every length is checked first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import DataError
from sealtune.frames import is_count
from sealtune.job.spec import Job
from sealtune.model.activations import LARGEST, Form, bytes_per_token, unpack
from sealtune.model.load import load_config
from sealtune.model.texts import Texts

CHUNK = 30 << 20  # bytes of activations, about: a chunk fits into one piece of the network engine
MAX_SAMPLES = 1 << 24
PartName = Literal["train", "test"]


@dataclass(frozen=True)
class Layout:
    """What all samples of a job have in common.

    Attributes:
        form: of the activations.
        width: values of a token's activations, D.
        max_tokens: of a sample.
        classes: how many there are; 0 for ``causal-lm``, whose samples carry their tokens.
        vocabulary: number of token ids.
    """

    form: Form
    width: int
    max_tokens: int
    classes: int
    vocabulary: int

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's activations."""
        return bytes_per_token(self.form, self.width)

    @property
    def least_tokens(self) -> int:
        """Tokens of a sample at least: a single one leaves ``causal-lm`` nothing to predict."""
        return 1 if self.classes else 2

    def check(self, chunk: Chunk) -> None:
        """Raise DataError unless every activation is finite and of a size that models have."""
        for data in chunk.activations:
            largest = float(unpack(data, self.form, self.width).abs().max())
            if largest > LARGEST:
                raise DataError(f"an activation of {largest:.1e} is no model's: the limit is 1e6")


@dataclass(frozen=True)
class Chunk:
    """Samples of one part of a site's data.

    Attributes:
        part: ``train`` or ``test``.
        lengths: tokens of each sample.
        labels: class of each; -1 for ``causal-lm``.
        ids: tokens of each sample, or None.
        activations: each sample's packed activations.
    """

    part: PartName
    lengths: tuple[int, ...]
    labels: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...] | None
    activations: tuple[bytes | memoryview, ...]

    def body(self) -> bytes:
        """The chunk's bytes."""
        parts = [_bytes(self.lengths, "<u4"), _bytes(self.labels, "<i4")]
        if self.ids is not None:
            parts += [_bytes(row, "<u4") for row in self.ids]
        return b"".join([*parts, *self.activations])


def chunk_spans(lengths: Sequence[int], layout: Layout) -> list[range]:
    """Which samples go into which chunk."""
    spans: list[range] = []
    start = size = 0
    for i, tokens in enumerate(lengths):
        size += tokens * layout.token_bytes
        if size >= CHUNK:
            spans.append(range(start, i + 1))
            start, size = i + 1, 0
    if start < len(lengths):
        spans.append(range(start, len(lengths)))
    return spans


def read_chunk(head: Mapping[str, Any], body: memoryview, layout: Layout) -> Chunk:
    """Take a chunk apart.

    Args:
        head: with ``part`` and ``samples``.
        body: its bytes; the chunk's activations are views of them.
        layout: what the job says.

    Raises:
        DataError: not a chunk of this job: cut short, too long, or with impossible values.
    """
    part, count = head.get("part"), head.get("samples")
    if part not in ("train", "test"):
        raise DataError("a chunk says neither 'train' nor 'test'")
    if not is_count(count) or not 0 < count <= MAX_SAMPLES:
        raise DataError("a chunk does not say how many samples it has")
    if body.nbytes < 8 * count:
        raise DataError(f"a chunk of {count} samples is cut short: it has {body.nbytes} bytes")
    lengths = _numbers(body[: 4 * count], "<u4")
    labels = _numbers(body[4 * count : 8 * count], "<i4")
    least = layout.least_tokens
    if lengths.min() < least or lengths.max() > layout.max_tokens:
        raise DataError(f"a sample has not {least} to {layout.max_tokens} tokens")
    low, high = (0, layout.classes - 1) if layout.classes else (-1, -1)
    if labels.min() < low or labels.max() > high:
        raise DataError(f"a label is not one of the job's {layout.classes} classes")
    ends = np.cumsum(lengths)
    tokens = int(ends[-1])
    id_bytes = 0 if layout.classes else 4 * tokens
    expected = 8 * count + id_bytes + tokens * layout.token_bytes
    if body.nbytes != expected:
        raise DataError(
            f"a chunk of {tokens} tokens has {body.nbytes} bytes, not {expected}: it is cut short, "
            "or was made with another cut, form or model"
        )
    ids = None
    if not layout.classes:
        flat = _numbers(body[8 * count : 8 * count + id_bytes], "<u4")
        if flat.max() >= layout.vocabulary:
            raise DataError(f"a token id is not below {layout.vocabulary}")
        ids = tuple(tuple(row.tolist()) for row in np.split(flat, ends[:-1]))
    rest = body[8 * count + id_bytes :]
    spans = zip((ends - lengths) * layout.token_bytes, ends * layout.token_bytes, strict=True)
    activations = tuple(rest[start:end] for start, end in spans)
    return Chunk(part, tuple(lengths.tolist()), tuple(labels.tolist()), ids, activations)


def _numbers(data: memoryview, kind: str) -> NDArray[np.int64]:
    return np.frombuffer(data, dtype=kind).astype(np.int64)


def _bytes(values: Sequence[int], kind: str) -> bytes:
    return np.asarray(values, dtype=kind).tobytes()


def chunk_of(
    part: PartName, texts: Texts, rows: Sequence[int], packed: Sequence[bytes], layout: Layout
) -> Chunk:
    """Some rows of ``texts``, with the packed activations of each."""
    labels = [texts.labels[row] for row in rows]
    ids = None if layout.classes else tuple(tuple(row.tolist()) for row in texts.rows(rows))
    return Chunk(
        part,
        tuple(texts.lengths[row] for row in rows),
        tuple(-1 if label is None else label for label in labels),
        ids,
        tuple(packed),
    )


def layout_of(job: Job, classes: int, form: Form | None = None) -> Layout:
    """What a job's samples look like.

    Args:
        classes: how many the job has; 0 for ``causal-lm``.
        form: of the activations; default: that of the split job.
    """
    config = load_config(job.model)
    return Layout(
        form=form or job.split_settings.activations,
        width=int(config.hidden_size),
        max_tokens=job.data.max_tokens,
        classes=classes,
        vocabulary=int(config.vocab_size),
    )
