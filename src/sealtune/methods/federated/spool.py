"""One round's updates on disk, for rules that need all of them at once.

    with Spool(folder) as spool:
        spool.put("north", update)
        spool.stack(name, 0, Spool.CHUNK)  # [n, CHUNK] float32, sites in order of their names

The disk is the operator's. The file has no name, and holds each tensor in chunks of AES-256-GCM
under a key that is in memory only. What a chunk is (site, tensor, number) is authenticated with it
and no nonce comes twice, so a chunk that was altered, moved or put back does not open.

Trust domain: server enclave.
"""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from sealtune.errors import StorageError
from sealtune.frames import length_prefixed
from sealtune.job.storage import reason, storage_error
from sealtune.methods.federated.adapter import Tensors

_TAG = 16
_NONCE = 12
_ITEM = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor lies: its chunks follow each other, as their nonces do."""

    offset: int  # bytes
    nonce: int
    shape: tuple[int, ...]
    numbers: int


class Spool:
    """The updates of one round. Memory is that of one chunk and, of a ``stack``, of its result.

    Args:
        folder: the enclave's state folder; made where it is missing.

    Raises:
        StorageError: no file can be made there.
    """

    CHUNK: ClassVar[int] = 1 << 14
    """Numbers in a chunk: what a multiple of it starts is read without waste."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._nonces = itertools.count()
        self._places: dict[str, dict[str, _Place]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise storage_error(folder, error) from error
        # also when nobody gets to the end of a round
        self.close = weakref.finalize(self, self._file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def sites(self) -> tuple[str, ...]:
        """Who has put an update here, in the order of the names."""
        return tuple(sorted(self._places))

    def put(self, site: str, tensors: Tensors) -> None:
        """Keep a site's update.

        Raises:
            ValueError: the site has one here already, or a tensor is not float32.
            StorageError: it cannot be written; the updates of the others stay.
        """
        if site in self._places:
            raise ValueError(f"{site} has put an update here already")
        self._places[site] = {name: self._write(site, name, tensors[name]) for name in tensors}

    def get(self, site: str, name: str) -> NDArray[np.float32]:
        """One tensor of a site's update, in its shape.

        Raises:
            StorageError: the file was altered, or cannot be read.
        """
        place = self._places[site][name]
        return self._read(site, name, 0, place.numbers).reshape(place.shape)

    def stack(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Numbers ``start`` to ``stop`` of one tensor, flat, of every site: [n, stop - start].

        Raises:
            ValueError: the tensor has other sizes at other sites, or ends before ``stop``.
            StorageError: the file was altered, or cannot be read.
        """
        sizes = {self._places[site][name].numbers for site in self.sites}
        if len(sizes) > 1 or not 0 <= start <= stop <= max(sizes, default=0):
            raise ValueError(f"{name} has {sorted(sizes)} numbers, asked for {start} to {stop}")
        result = np.empty((len(self.sites), stop - start), dtype=np.float32)
        for row, site in zip(result, self.sites, strict=True):
            row[:] = self._read(site, name, start, stop)
        return result

    def _write(self, site: str, name: str, tensor: NDArray[np.float32]) -> _Place:
        if tensor.dtype != np.float32:
            raise ValueError(f"{name} is {tensor.dtype}, not float32")
        flat = np.ascontiguousarray(tensor).reshape(-1).data
        offset, first = -1, -1
        try:
            offset = self._file.seek(0, 2)
            for number, start in enumerate(range(0, tensor.size, self.CHUNK)):
                nonce = next(self._nonces)
                first = nonce if number == 0 else first
                piece = flat[start : start + self.CHUNK].cast("B")
                box = self._cipher.encrypt(_nonce(nonce), piece, _label(site, name, number))
                if self._file.write(box) != len(box):
                    raise OSError(28, "No space left on device")
        except OSError as error:
            raise storage_error(self._folder, error) from error
        return _Place(offset, first, tensor.shape, tensor.size)

    def _read(self, site: str, name: str, start: int, stop: int) -> NDArray[np.float32]:
        result = np.empty(stop - start, dtype=np.float32)
        for number, plain in self._chunks(site, name, start, stop):
            begin = number * self.CHUNK - start  # where the chunk starts in the result
            cut = max(0, -begin)
            piece = plain[cut : stop - start - begin]
            result[begin + cut : begin + cut + len(piece)] = piece
        return result

    def _chunks(
        self, site: str, name: str, start: int, stop: int
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Number and contents of every chunk that numbers ``start`` to ``stop`` touch."""
        place = self._places[site][name]
        for number in range(start // self.CHUNK, -(-stop // self.CHUNK)):
            size = min(self.CHUNK, place.numbers - number * self.CHUNK) * _ITEM + _TAG
            offset = place.offset + number * (self.CHUNK * _ITEM + _TAG)
            nonce = _nonce(place.nonce + number)
            try:
                self._file.seek(offset)
                plain = self._cipher.decrypt(
                    nonce, self._file.read(size), _label(site, name, number)
                )
            except (InvalidTag, ValueError) as error:  # ValueError: nothing is left to read
                raise StorageError(
                    f"the update of site '{site}' on disk in {self._folder} was altered",
                    hint="someone with access to this machine has written to it; start again with "
                    "--resume once that is cleared up",
                ) from error
            except OSError as error:
                raise StorageError(
                    f"the updates in {self._folder} cannot be read: {reason(error)}"
                ) from error
            yield number, np.frombuffer(plain, dtype=np.float32)


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE, "big")


def _label(site: str, name: str, number: int) -> bytes:
    return length_prefixed(site.encode(), name.encode(), number.to_bytes(8, "big"))
