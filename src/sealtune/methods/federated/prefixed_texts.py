"""Texts of which the blocks below the first tuned one are run once, and their result kept sealed.

    store = PrefixStore(folder, job_id, layout)
    rows = PrefixedTexts(texts, "train", FrozenPrefix(model, first, compute), store)
    local_round(model, task, rows, ...)         # the upper blocks alone, on any row's second time

It lies on disk under a key that is drawn here and never leaves this process: whoever holds the
folder reads nothing, and what an earlier start left there is deleted. Where there is no space for
it, texts are run anew.

Trust domain: client enclave; data owner (secure aggregation).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from sealtune.channel.stream import SECRET_SIZE
from sealtune.errors import StorageError
from sealtune.methods.split.sample_store import SampleStore
from sealtune.model.activations import pack, unpack
from sealtune.model.batches import sorted_batches
from sealtune.model.cut_chunk import Chunk, Layout, chunk_of
from sealtune.model.frozen_prefix import FrozenPrefix
from sealtune.model.samples import Contents, CutBatch, Sample, Samples
from sealtune.model.texts import Texts

_SPARED = 1 << 30  # bytes of the disk that are left to others


class PrefixStore:
    """Where one process keeps what its frozen blocks have made.

    Args:
        folder: of its own; what is in it is deleted.
        job_id: 48 bytes.
        layout: of what is kept.
    """

    def __init__(self, folder: Path, job_id: bytes, layout: Layout) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # sealed with a key that is gone
        self.layout, self._folder = layout, folder
        self._sealed = SampleStore(folder, secrets.token_bytes(SECRET_SIZE), job_id, layout)

    def keep(self, name: str, chunk: Chunk) -> list[Sample]:
        """Seal a chunk of the texts called ``name``; returns what to read its rows by, or nothing:
        there is no space.
        """
        needed = 2 * sum(map(len, chunk.activations)) + _SPARED
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < needed:
                return []
            self._sealed.add(name, chunk, of=0)
        except (OSError, StorageError):
            return []
        return self._sealed.samples(name, chunk.part)[-len(chunk.lengths) :]

    def read(self, sample: Sample) -> Contents:
        """One row.

        Raises:
            StorageError: it is gone or was altered.
        """
        return self._sealed.read(sample)

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self._folder, ignore_errors=True)


class PrefixedTexts:
    """A data set (``model.texts.Dataset``) that hands out what block ``first`` is given.

    Args:
        texts: the texts.
        name: of theirs, among all in ``store``.
        prefix: the blocks.
        store: where their results are kept.
    """

    def __init__(self, texts: Texts, name: str, prefix: FrozenPrefix, store: PrefixStore) -> None:
        self._texts, self._name, self._prefix, self._store = texts, name, prefix, store
        self._kept: dict[int, Sample] = {}
        self._unkept: dict[int, Contents] = {}  # for the batch that is made
        self._keeps = True
        numbered = enumerate(zip(texts.lengths, texts.labels, strict=True))
        rows = [Sample(name, row, tokens, label) for row, (tokens, label) in numbered]
        self._samples = Samples(rows, self._read, prefix.entry, texts.pad_id)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._texts)

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each."""
        return self._texts.lengths

    def batch(self, chosen: Sequence[int]) -> CutBatch:
        """The texts with these numbers; those that are new go through the blocks."""
        self._unkept = self._run([row for row in chosen if row not in self._kept])
        return self._samples.batch(chosen)

    def run_all(self, size: int) -> None:
        """All texts, ``size`` at a time, so that what ``batch`` does tells nothing of its rows: if
        not all of them can be kept, none is.
        """
        every = sorted_batches(self.lengths, size)
        if any(self._run(rows) for rows in every):
            self._kept, self._keeps = {}, False

    def _run(self, rows: Sequence[int]) -> dict[int, Contents]:
        """Run texts and keep the result; what could not be kept."""
        if not rows:
            return {}
        layout, lengths = self._store.layout, self._texts.lengths
        hidden = self._prefix(self._texts.batch(rows))  # [B, T, D]
        made = [pack(h[: lengths[row]], layout.form) for h, row in zip(hidden, rows, strict=True)]
        kept = []
        if self._keeps:
            chunk = chunk_of("train", self._texts, rows, made, layout)
            kept = self._store.keep(self._name, chunk)
        self._kept |= zip(rows, kept, strict=False)
        if kept:
            return {}
        ids = [torch.from_numpy(row).long() for row in self._texts.rows(rows)]
        unpacked = [unpack(data, layout.form, layout.width) for data in made]
        return dict(zip(rows, map(Contents, unpacked, ids), strict=True))

    def _read(self, sample: Sample) -> Contents:
        row = sample.number
        return self._unkept[row] if row in self._unkept else self._store.read(self._kept[row])
