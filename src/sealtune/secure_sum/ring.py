"""Vectors of numbers modulo 2^64, the masks that hide them, and fixed-point numbers in them.

Trust domain: data owner, server operator.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from sealtune.errors import FrameError, ModelError

Vector: TypeAlias = NDArray[np.uint64]
VALUE = 8  # bytes
_PIECE = 1 << 17  # values; 1 MiB
_ROOM = 62  # bits for the magnitude of a sum


def add_mask(vector: Vector, key: bytes, sign: int) -> None:
    """Add the key stream of AES-256-CTR, or with ``sign`` -1 take it off, in place.

    Args:
        key: 32 bytes that no other vector is masked with.
    """
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    zeros = bytes(VALUE * min(_PIECE, len(vector)))
    for start in range(0, len(vector), _PIECE):
        piece = vector[start : start + _PIECE]
        mask = np.frombuffer(stream.update(zeros[: VALUE * len(piece)]), "<u8")
        if sign > 0:
            np.add(piece, mask, out=piece)
        else:
            np.subtract(piece, mask, out=piece)


def to_bytes(vector: Vector) -> bytes:
    """Little-endian."""
    return vector.astype("<u8", copy=False).tobytes()


def from_bytes(data: bytes | memoryview, length: int) -> Vector:
    """The vector of ``to_bytes``; not copied.

    Raises:
        FrameError: not of this length.
    """
    if len(data) != VALUE * length:
        raise FrameError(f"a vector of {len(data)} bytes, not {VALUE * length}")
    return np.frombuffer(data, "<u8")


class FixedPoint:
    """Real numbers as multiples of a power of two, so that weighted sums are exact in the ring.

    Args:
        limit: largest magnitude of a number.
        weight: of all sites together.

    Attributes:
        step: the unit.
    """

    def __init__(self, limit: float, weight: int) -> None:
        self._limit = limit
        self.step = 2.0 ** math.ceil(math.log2(limit * weight) - _ROOM)

    def encode(self, values: Any, weight: int) -> Vector:
        """``weight`` times the values, float64, each to the nearest multiple of the step.

        Raises:
            ModelError: a number beyond the limit, or none.
        """
        numbers = np.asarray(values, np.float64)
        if not (np.abs(numbers) <= self._limit).all():  # NaN fails the comparison, too
            raise ModelError(
                f"a number to be summed is not finite, or beyond {self._limit:.3g}",
                hint="the training diverged: lower train.learning_rate, or look for damaged data",
            )
        whole = np.rint(numbers / self.step).astype(np.int64)
        return (whole * np.int64(weight)).view(np.uint64)

    def mean(self, total: Vector, weight: int) -> NDArray[np.float64]:
        """The weighted mean of a sum of encoded numbers."""
        return total.view(np.int64) / weight * self.step
