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
from sealtune.job.resolved import Resolved
from sealtune.methods.split.messages import upload_head
from sealtune.methods.split.sample_store import SampleStore
from sealtune.model import cut_chunk
from sealtune.model.cut_chunk import Chunk, Layout, read_chunk

MAX_CHUNKS = 1 << 20
_LONGEST = 1e9  # seconds


class Uploads:
    """How far every site has come.

    Args:
        resolved: the job.
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
        self, resolved: Resolved, store: SampleStore, layout: Layout, *, resume: bool
    ) -> None:
        self._resolved = resolved
        self._store = store
        self._layout = layout
        names = resolved.job.sites.names
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

    def check(self, site: str, answer: Frame) -> tuple[Chunk, int, float]:
        """Check a chunk; see ``read_upload``.

        Raises:
            DataError: it is not the chunk that was asked for, or not what was signed.
        """
        number = self._store.chunks(site)
        chunk, of, seconds = read_upload(
            answer, number, self.of[site], self._resolved, self._layout
        )
        signed = self._resolved.manifest.data[site]
        check_progress(chunk, self._store.counts(site), signed, last=number + 1 == of)
        return chunk, of, seconds

    def take(self, site: str, checked: tuple[Chunk, int, float]) -> None:
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


def read_upload(
    answer: Frame, number: int, of: int | None, resolved: Resolved, layout: Layout
) -> tuple[Chunk, int, float]:
    """Check a chunk.

    Args:
        answer: what the site sent.
        number: of the chunk that it was asked for.
        of: how many chunks it has said to have; None before its first.
        resolved: the job.
        layout: what the job's samples look like.

    Returns:
        The chunk, how many the site has altogether, and the seconds that it spent.

    Raises:
        DataError: another chunk, made with another model, cut or form, damaged, or not finite.
    """
    if answer.kind != "chunk":
        raise DataError(f"answered with {answer.kind[:40]!r}, not with a chunk")
    meta = answer.meta
    for key, wanted in upload_head(resolved).items():
        if meta.get(key) != wanted:
            raise DataError(
                f"its activations were made with another {_NAMES[key]} than the job's",
                hint="every site must use the model files that the manifest names",
            )
    total = _count(meta, "of")
    if _count(meta, "chunk") != number or not number < total <= MAX_CHUNKS:
        raise DataError(f"chunk {meta.get('chunk')!r} of {total} came instead of chunk {number}")
    if of is not None and total != of:
        raise DataError(f"it first had {of} chunks, and now {total}")
    chunk = read_chunk(meta, memoryview(answer.body), layout)
    layout.check(chunk)  # here, and not while training
    return chunk, total, _seconds(meta)


def check_progress(
    chunk: Chunk, have: Mapping[str, int], signed: DataIdentity, *, last: bool
) -> None:
    """Hold a chunk against what is there and what was signed.

    A chunk is full unless it is the last of its part, so no site can send more chunks than its
    data make.

    Args:
        have: samples of each part that came before.
        signed: the site's data in the manifest.
        last: whether the upload ends with this chunk.

    Raises:
        DataError: more samples than were signed, parts out of order, a chunk that is not full, or
            an upload that ends early.
    """
    rows = {"train": signed.train_rows, "test": signed.test_rows}
    now = have[chunk.part] + len(chunk.lengths)
    if now > rows[chunk.part]:
        raise DataError(f"{now} {chunk.part} samples came, {rows[chunk.part]} were signed")
    if chunk.part == "test" and have["train"] != rows["train"]:
        raise DataError(f"{have['train']} train samples came, {rows['train']} were signed")
    if now < rows[chunk.part] and sum(map(len, chunk.activations)) < cut_chunk.CHUNK:
        raise DataError("a chunk is smaller than a site's chunks are, and not the last of its part")
    if last:
        check_complete({**have, chunk.part: now}, signed)


def check_complete(have: Mapping[str, int], signed: DataIdentity) -> None:
    """Raise DataError unless a whole upload has as many samples as were signed."""
    for part, rows in (("train", signed.train_rows), ("test", signed.test_rows)):
        if have[part] != rows:
            raise DataError(f"{have[part]} {part} samples came, {rows} were signed")


_NAMES = {"model": "revision of the model", "cut": "cut", "form": "form of activations"}


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
