"""A few thousand numbers of each update, from which the angle between any two follows.

An update is read in rows of ``WIDTH`` numbers. Each number gets a secret sign, and so does each
row, which is turned by a secret shift and added to the rest: a count sketch (Charikar et al., ICALP
2002) whose hash functions are cheap. Two numbers of one row never meet, two of different rows with
probability 1 / WIDTH and with a random sign. So inner products are right on average, and cosines
are off by about 1 / sqrt(WIDTH) = 0.011. Who does not know the key cannot make an update that looks
other than it is.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from sealtune.methods.federated.adapter import Shapes, Tensors
from sealtune.methods.federated.pieces import in_threads

WIDTH = 1 << 13

_GROUPS = 16  # of tensors that are sketched in turn; groups at a time

Sketch = NDArray[np.float32]  # [WIDTH]


class Sketcher:
    """Makes sketches that can be compared with each other.

    Args:
        key: 32 secret bytes; the same key gives the same sketches.
        shapes: names and shapes of an update's tensors; those of a site may be smaller.
    """

    def __init__(self, key: bytes, shapes: Shapes) -> None:
        self._shapes = dict(sorted(shapes.items()))
        rows = 0
        self._rows: dict[str, int] = {}  # of each tensor, the first
        self._groups: dict[str, list[str]] = {}
        self._sizes: dict[str, int] = {}
        for place, (name, shape) in enumerate(self._shapes.items()):
            self._rows[name] = rows
            rows += -(-math.prod(shape) // WIDTH)
            group = str(place * _GROUPS // len(self._shapes))
            self._groups.setdefault(group, []).append(name)
            self._sizes[group] = self._sizes.get(group, 0) + math.prod(shape)
        stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
        bits = np.frombuffer(stream.update(bytes(WIDTH // 8)), np.uint8)
        self._signs = (2.0 * np.unpackbits(bits) - 1).astype(np.float32)
        drawn = np.frombuffer(stream.update(bytes(4 * rows)), "<u4")
        self._shifts = (drawn % WIDTH).tolist()
        self._negative = (drawn >> 31).astype(bool).tolist()

    def sketch(self, update: Tensors) -> Sketch:
        """The sketch of an update, [WIDTH]; all zero only of one that is."""
        found: dict[str, Sketch] = {}

        def sketch(groups: Sequence[str]) -> None:
            for group in groups:
                total = found[group] = np.zeros(WIDTH, np.float32)
                for name in self._groups[group]:
                    self._add(total, _whole(update[name], self._shapes[name]), self._rows[name])

        in_threads(sketch, self._sizes)
        # in one order, whatever the threads: rounding is the same on every machine
        whole: Sketch = np.sum([found[group] for group in self._groups], axis=0, dtype=np.float32)
        return whole

    def _add(self, total: Sketch, tensor: NDArray[np.float32], row: int) -> None:
        flat = tensor.reshape(-1)
        for start in range(0, flat.size, WIDTH):
            part = flat[start : start + WIDTH] * self._signs[: flat.size - start]
            shift, add = self._shifts[row], np.subtract if self._negative[row] else np.add
            end = min(len(part), WIDTH - shift)  # what is left starts again at 0
            for place, turned in ((shift, part[:end]), (0, part[end:])):
                whole = total[place : place + len(turned)]
                add(whole, turned, out=whole)
            row += 1


def cosines(sketches: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of the angle between any two of n updates, [n, n], from their sketches [n, WIDTH].

    An update that is zero has a cosine of 0 to all others.
    """
    exact = sketches.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = np.divide(exact, lengths, out=np.zeros_like(exact), where=lengths > 0)
    between: NDArray[np.float64] = np.clip(unit @ unit.T, -1.0, 1.0)
    return between


def _whole(tensor: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A site of a lower rank has the first rows or columns; the others did not move."""
    if tensor.shape == shape:
        return tensor
    return np.pad(
        tensor, [(0, whole - own) for own, whole in zip(tensor.shape, shape, strict=True)]
    )
