"""A site's upload as the server enclave sees it: one chunk after another, each checked.

Trust domain: server enclave. What a site sends is not trusted to be right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sealtune.errors import DataError
from sealtune.frames import Frame, is_count
from sealtune.job.manifest import DataIdentity
from sealtune.methods.split.messages import upload_head
from sealtune.methods.split.sample_store import SampleStore
from sealtune.model import cut_chunk
from sealtune.model.cut_chunk import Chunk, Layout, read_chunk
from sealtune.party.admit import Admitted

MAX_CHUNKS = 1 << 20
_LONGEST = 1e9  # seconds
_NAMES = {"model": "revision of the model", "cut": "cut", "form": "form of activations"}
Checked = tuple[Chunk, int, float]  # a chunk, how many there are, seconds spent on it


class Uploads:
    """How far every site has come.

    Args:
        admitted: the job.
        store: where samples go.
        layout: what the job's samples look like.
        resume: go on with the chunks that are there.

    Attributes:
        of: site -> chunks that it has altogether; None before its first.
        seconds: site -> what it says to have spent on its blocks.

    Raises:
        StorageError: a chunk was altered, or is not this job's.
    """

    def __init__(
        self, admitted: Admitted, store: SampleStore, layout: Layout, *, resume: bool
    ) -> None:
        self._admitted = admitted
        self._store = store
        self._layout = layout
        names = admitted.job.sites.names
        self.of = {site: store.resume(site) if resume else None for site in names}
        self.seconds = dict.fromkeys(names, 0.0)

    @property
    def questions(self) -> dict[str, Frame]:
        """The next chunk of every site that has more."""
        sent = {site: self._store.chunks(site) for site in self.of}
        return {
            site: Frame("upload", {"round": 0, "chunk": sent[site]})
            for site, of in self.of.items()
            if of is None or sent[site] < of
        }

    def check(self, site: str, answer: Frame) -> Checked:
        """Check a site's next chunk.

        A chunk is full unless it is the last of its part, so no site can send more chunks than its
        data make.

        Raises:
            DataError: another chunk, made with another model, cut or form, damaged, not finite, or
                not what was signed.
        """
        if answer.kind != "chunk":
            raise DataError(f"answered with {answer.kind[:40]!r}, not with a chunk")
        meta, number, known = answer.meta, self._store.chunks(site), self.of[site]
        for key, wanted in upload_head(self._admitted).items():
            if meta.get(key) != wanted:
                raise DataError(
                    f"its activations were made with another {_NAMES[key]} than the job's",
                    hint="every site must use the model files that the manifest names",
                )
        of = _count(meta, "of")
        if _count(meta, "chunk") != number or not number < of <= MAX_CHUNKS:
            raise DataError(f"chunk {meta.get('chunk')!r} of {of} came instead of chunk {number}")
        if known not in (None, of):
            raise DataError(f"it first had {known} chunks, and now {of}")
        chunk = read_chunk(meta, memoryview(answer.body), self._layout)
        self._layout.check(chunk)  # here, and not while training
        signed, have = self._admitted.manifest.data[site], self._store.counts(site)
        rows = {"train": signed.train_rows, "test": signed.test_rows}[chunk.part]
        now = have[chunk.part] + len(chunk.lengths)
        if now > rows:
            raise DataError(f"{now} {chunk.part} samples came, {rows} were signed")
        if chunk.part == "test" and have["train"] != signed.train_rows:
            raise DataError(f"{have['train']} train samples came, {signed.train_rows} were signed")
        if now < rows and sum(map(len, chunk.activations)) < cut_chunk.CHUNK:
            raise DataError(
                "a chunk is smaller than a site's chunks are, and not the last of its part"
            )
        if number + 1 == of:
            check_complete({**have, chunk.part: now}, signed)
        return chunk, of, _seconds(meta)

    def take(self, site: str, checked: Checked) -> None:
        """Keep a chunk.

        Raises:
            StorageError: it cannot be written.
        """
        chunk, of, seconds = checked
        self._store.add(site, chunk, of=of)
        self.of[site] = of
        self.seconds[site] += seconds

    def drop(self, site: str) -> None:
        """Nothing of a site that sends nonsense is trained on."""
        self._store.drop(site)
        self.of[site] = None


def check_complete(have: Mapping[str, int], signed: DataIdentity) -> None:
    """Raise DataError unless a whole upload has as many samples as were signed."""
    for part, rows in (("train", signed.train_rows), ("test", signed.test_rows)):
        if have[part] != rows:
            raise DataError(f"{have[part]} {part} samples came, {rows} were signed")


def _count(meta: Mapping[str, Any], key: str) -> int:
    value = meta.get(key)
    if not is_count(value) or value > MAX_CHUNKS:
        raise DataError(f"a chunk's '{key}' is not a count")
    return value


def _seconds(meta: Mapping[str, Any]) -> float:
    value = meta.get("seconds")
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LONGEST:
        return float(value) if math.isfinite(value) else 0.0
    raise DataError("a chunk's 'seconds' is not a number of seconds")
