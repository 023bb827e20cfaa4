"""The sites' samples on disk, each sealed for itself, so that any one can be read at any time.

    activations/<site>/<chunk>.sealed
        u32 length | sealed index | sealed sample 0 | sealed sample 1 | ...

A chunk's index holds the lengths and labels of its samples, a fresh key for them and the name of
the upload; it opens only with the enclave's sealing key, for this job, this site and this place. So
chunks cannot be altered, moved or mixed with those of another upload; the operator can delete them,
which is noticed: a checkpoint keeps a digest of every site's samples. Samples are padded to
multiples of 8 tokens, so that what their sizes on disk tell of their lengths is coarse.

Trust domain: server enclave.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sealtune import frames
from sealtune.channel.sealed import SealedSession
from sealtune.channel.stream import SECRET_SIZE, sealed_size
from sealtune.errors import ChannelError, DataError, StorageError
from sealtune.frames import Frame
from sealtune.job.storage import write_atomic
from sealtune.model.activations import unpack
from sealtune.model.cut_chunk import Chunk, Layout
from sealtune.model.samples import Contents, Sample
from sealtune.model.texts import padded

_Mode = Literal["seal", "open"]
_LENGTH = struct.Struct("<I")
_FORMAT = 1
_ID = 4  # bytes of a token's id


@dataclass(frozen=True)
class _Place:
    """Where a sample lies."""

    path: Path
    key: bytes
    place: int  # in its chunk
    offset: int  # bytes
    size: int  # bytes, sealed


class SampleStore:
    """All samples of one job.

    Args:
        folder: ``state/activations`` in the run folder.
        key: 32 bytes, the enclave's sealing key.
        job_id: 48 bytes.
        layout: what the job's samples look like.
    """

    def __init__(self, folder: Path, key: bytes, job_id: bytes, layout: Layout) -> None:
        self._folder = folder
        self._key = key
        self._job_id = job_id
        self._layout = layout
        self._places: dict[str, list[_Place]] = {}
        self._samples: dict[str, dict[str, list[Sample]]] = {}
        self._chunks: dict[str, int] = {}
        self._uploads: dict[str, str] = {}  # site -> name of its upload
        self._digests: dict[str, Any] = {}

    def counts(self, site: str) -> dict[str, int]:
        """How many samples of each part there are."""
        return {"train": len(self.samples(site, "train")), "test": len(self.samples(site, "test"))}

    def digest(self, site: str) -> str:
        """SHA-256 (hex) over a site's sealed indices: which samples these are."""
        found = self._digests.get(site)
        return "" if found is None else str(found.hexdigest())

    def chunks(self, site: str) -> int:
        """How many chunks of a site there are."""
        return self._chunks.get(site, 0)

    def samples(self, site: str, part: Literal["train", "test"]) -> list[Sample]:
        """A site's samples of one part, in the order in which they came."""
        return self._samples.get(site, {}).get(part, [])

    def add(self, site: str, chunk: Chunk, *, of: int) -> None:
        """Seal a site's next chunk and keep it.

        Args:
            of: how many chunks the site has altogether; kept for ``resume``.

        Raises:
            StorageError: it cannot be written; the chunks before it stay.
        """
        number, key = self.chunks(site), secrets.token_bytes(SECRET_SIZE)
        meta = {
            "format": _FORMAT,
            "part": chunk.part,
            "of": of,
            "upload": self._uploads.get(site) or secrets.token_hex(16),
            "lengths": chunk.lengths,
            "labels": chunk.labels,
        }
        index = self._index_session("seal", site, number).seal(_index(meta, key), number)
        sealed = [
            self._sample_session("seal", key, place).seal(self._plain(chunk, place), 0)
            for place in range(len(chunk.lengths))
        ]
        path = self._path(site, number)
        write_atomic(path, b"".join([_LENGTH.pack(len(index)), index, *sealed]))
        self._remember(site, path, key, meta, index)

    def resume(self, site: str) -> int | None:
        """Take in the chunks that lie there from an earlier start.

        Returns:
            how many chunks the site has altogether, or None if none is there.

        Raises:
            StorageError: one was altered, or belongs to another job, machine or place.
        """
        total = None
        while (path := self._path(site, self.chunks(site))).exists():
            number = self.chunks(site)
            try:
                with path.open("rb") as file:
                    (size,) = _LENGTH.unpack(file.read(_LENGTH.size))
                    sealed = file.read(min(size, path.stat().st_size))
                frame = frames.decode(
                    self._index_session("open", site, number).open(sealed, number)
                )
                meta = _read_index(frame)
                if total not in (None, meta["of"]) or self._uploads.get(site) not in (
                    None,
                    meta["upload"],
                ):
                    raise ValueError("chunks of two uploads")
            except (ChannelError, OSError, struct.error, ValueError) as error:
                raise StorageError(
                    f"{path} does not open: it was altered, or belongs to another job, machine or "
                    "user",
                    hint="start the run anew, without --resume",
                ) from error
            total = meta["of"]
            self._remember(site, path, bytes(frame.body[:SECRET_SIZE]), meta, sealed)
        return total

    def drop(self, site: str) -> None:
        """Forget a site's samples, and delete them."""
        for number in range(self.chunks(site)):
            self._path(site, number).unlink(missing_ok=True)
        kept = (self._places, self._samples, self._chunks, self._uploads, self._digests)
        for known in kept:
            known.pop(site, None)

    def read(self, sample: Sample) -> Contents:
        """Open one sample.

        Raises:
            StorageError: it is gone or was altered.
        """
        place = self._places[sample.site][sample.number]
        try:
            with place.path.open("rb") as file:
                file.seek(place.offset)
                sealed = file.read(place.size)
            plain = memoryview(self._sample_session("open", place.key, place.place).open(sealed, 0))
            ids = None
            if not self._layout.classes:
                size = _ID * sample.tokens
                ids = torch.frombuffer(bytearray(plain[:size]), dtype=torch.int32).long()
                plain = plain[size:]
            data = plain[: sample.tokens * self._layout.token_bytes]  # the rest is padding
            return Contents(unpack(data, self._layout.form, self._layout.width), ids)
        except (ChannelError, DataError, OSError) as error:
            raise StorageError(
                f"sample {sample.number} of site '{sample.site}' cannot be read from {place.path}: "
                "the file is gone or was altered",
                hint="restore the run folder, or start the run anew",
            ) from error

    def _remember(
        self, site: str, path: Path, key: bytes, meta: dict[str, Any], index: bytes
    ) -> None:
        places = self._places.setdefault(site, [])
        parts = self._samples.setdefault(site, {"train": [], "test": []})
        offset = _LENGTH.size + len(index)
        for place, (tokens, label) in enumerate(zip(meta["lengths"], meta["labels"], strict=True)):
            size = sealed_size(self._padded(tokens))
            sample = Sample(site, len(places), tokens, None if label < 0 else label)
            parts[meta["part"]].append(sample)
            places.append(_Place(path, key, place, offset, size))
            offset += size
        self._chunks[site] = self.chunks(site) + 1
        self._uploads[site] = meta["upload"]
        self._digests.setdefault(site, hashlib.sha256()).update(index)

    def _padded(self, tokens: int) -> int:
        """Bytes that a sample of so many tokens takes, padded."""
        each = self._layout.token_bytes + (0 if self._layout.classes else _ID)
        return padded(tokens) * each

    def _plain(self, chunk: Chunk, place: int) -> bytes:
        data = bytes(chunk.activations[place])
        if chunk.ids is not None:
            data = torch.tensor(chunk.ids[place], dtype=torch.int32).numpy().tobytes() + data
        return data.ljust(self._padded(chunk.lengths[place]), b"\0")

    def _path(self, site: str, number: int) -> Path:
        return self._folder / site / f"{number:06d}.sealed"

    def _index_session(self, mode: _Mode, site: str, number: int) -> SealedSession:
        return self._session(mode, self._key, f"activations:{site}", number)

    def _sample_session(self, mode: _Mode, key: bytes, place: int) -> SealedSession:
        return self._session(mode, key, "sample", place)

    def _session(self, mode: _Mode, key: bytes, what: str, sequence: int) -> SealedSession:
        return SealedSession(
            key,
            job_id=self._job_id,
            sender="server",
            receiver=f"server:{what}",
            mode=mode,
            sequence=sequence,
        )


def _index(meta: dict[str, Any], key: bytes) -> bytes:
    # lengths and labels may outgrow a frame's meta, so they follow the key in the body
    numbers = [*meta["lengths"], *meta["labels"]]
    small = {key: meta[key] for key in ("format", "part", "of", "upload")}
    small["samples"] = len(meta["lengths"])
    body = key + torch.tensor(numbers, dtype=torch.int32).numpy().tobytes()
    return frames.encode(Frame("samples", small, body))


def _read_index(frame: Frame) -> dict[str, Any]:
    count = int(frame.meta["samples"])
    body = bytearray(frame.body)
    if frame.kind != "samples" or frame.meta.get("format") != _FORMAT:
        raise ValueError("another format")
    numbers: Sequence[int] = torch.frombuffer(body, dtype=torch.int32, offset=SECRET_SIZE).tolist()
    if len(numbers) != 2 * count:
        raise ValueError("an index of another length")
    return {
        "part": frame.meta["part"],
        "of": int(frame.meta["of"]),
        "upload": str(frame.meta["upload"]),
        "lengths": numbers[:count],
        "labels": numbers[count:],
    }
