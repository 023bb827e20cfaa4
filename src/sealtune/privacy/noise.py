"""Gaussian noise and secret draws from a cipher's key stream, never from the job's seed.

    stream = NoiseStream()
    stream.chosen(rows, rate)                      # numbers of the rows that a step takes
    noisy = stream.add_noise(values, deviation)

A floating-point sum shows in its last bits what was added to what, and with it the exact value
under the noise (Mironov, CCS 2012). So values and noise are both rounded to one grid, whose step
depends on the deviation alone, and added as integers.

A deviate is made by Box and Muller (1958) of two 64-bit words. It reaches as far as 9.4 deviations;
what is beyond has a probability of 2^-64 in each pair.

Trust domain: client enclave, server enclave.
"""

from __future__ import annotations

import math
import os
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from sealtune.errors import PadReuseError

GRID_BITS = 24  # the noise's deviation is 2^24 to 2^25 steps of the grid
_PIECE = 1 << 16  # pairs made at once
_LARGEST = 2.0**62  # of a value or of noise, in steps


class NoiseStream:
    """AES-256 in counter mode under a key that the operating system drew for this object."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        key, counter = secrets.token_bytes(32), bytes(16)
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words, none used twice.

        Raises:
            PadReuseError: the process was forked, so two would draw the same.
        """
        if os.getpid() != self._pid:
            raise PadReuseError("the enclave process was forked; its noise would be used twice")
        return np.frombuffer(self._cipher.update(bytes(8 * count)), np.uint64)

    def chosen(self, rows: int, rate: float) -> list[int]:
        """Numbers below ``rows``, each with probability ``rate``, rounded down to 2^-64."""
        if rate >= 1:
            return list(range(rows))
        drawn: list[int] = np.flatnonzero(self.words(rows) < np.uint64(rate * 2.0**64)).tolist()
        return drawn

    def gaussian(self, count: int) -> NDArray[np.float64]:
        """Independent deviates of mean 0 and variance 1."""
        made: NDArray[np.float64] = np.empty(count)
        for start in range(0, count, 2 * _PIECE):
            piece = made[start : start + 2 * _PIECE]
            pairs = (len(piece) + 1) // 2
            words = self.words(2 * pairs)
            # in (0, 1]; near 0, where the tail is made, all 64 bits count
            uniform = (words[:pairs].astype(np.float64) + 1.0) * 2.0**-64
            radius, angle = np.sqrt(-2.0 * np.log(uniform)), words[pairs:] * (math.tau * 2.0**-64)
            piece[:pairs] = radius * np.cos(angle)
            piece[pairs:] = (radius * np.sin(angle))[: len(piece) - pairs]
        return made

    def add_noise(self, values: NDArray[np.floating], deviation: float) -> NDArray[np.float64]:
        """``values``, each with noise of this deviation, on the grid of ``grid_step``.

        Raises:
            ValueError: a value is not finite, or so large that noise of this size hides nothing.
        """
        step = grid_step(deviation)
        steps: NDArray[np.float64] = np.rint(values.astype(np.float64).reshape(-1) / step)
        if not (np.abs(steps) < _LARGEST).all():  # NaN fails the comparison, too
            raise ValueError(f"a value is not finite, or beyond {_LARGEST * step:.3g}")
        noisy = steps.astype(np.int64) + self.steps(steps.size, deviation)
        scaled: NDArray[np.float64] = noisy * np.float64(step)
        return scaled.reshape(values.shape)

    def steps(self, count: int, deviation: float) -> NDArray[np.int64]:
        """Noise of this deviation alone, in steps of ``grid_step``."""
        noise: NDArray[np.float64] = self.gaussian(count) * (deviation / grid_step(deviation))
        return np.rint(noise).astype(np.int64)


def grid_step(deviation: float) -> float:
    """Step of the grid for noise of this deviation: a power of two."""
    return 2.0 ** (math.frexp(deviation)[1] - 1 - GRID_BITS)
