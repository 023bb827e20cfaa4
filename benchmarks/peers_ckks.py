"""FedAvg under CKKS: sites encrypt their weighted adapters, the server adds what it cannot read.

All sites share one secret key, and the server has none, as in NVIDIA FLARE, whose parameters these
are, too: ring dimension 8192, moduli of 60, 40 and 40 bits (at most 218 are 128 bits of security),
scale 2^40. The ciphertexts are TenSEAL's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEGREE, MODULI, SCALE = 8192, [60, 40, 40], 2.0**40
_SLOTS = DEGREE // 2

Vector = NDArray[np.float64]
Train = Callable[[str, Vector, int], Vector]  # site, adapter, round -> adapter


class Ckks:
    """One federation.

    Args:
        rows: site -> how much its adapter counts.

    Attributes:
        up, down: bytes of ciphertexts so far, from all sites and to them.
    """

    def __init__(self, rows: Mapping[str, int]) -> None:
        tenseal = _library()
        self._tenseal = tenseal
        self._rows = rows
        self.up = self.down = 0
        self._secret = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=MODULI, n_threads=1
        )
        self._secret.global_scale = SCALE
        self._public = self._secret.copy()
        self._public.make_context_public()

    def round(self, adapter: Vector, number: int, train: Train) -> Vector:
        """Train at all sites, and what they decrypt of the sum."""
        everybody = sum(self._rows.values())
        total: list[Any] = []
        for site, rows in self._rows.items():
            sent = self._encrypt(train(site, adapter, number) * (rows / everybody))
            self.up += sum(map(len, sent))
            received = [self._tenseal.ckks_vector_from(self._public, piece) for piece in sent]
            total = [a + b for a, b in zip(total, received, strict=True)] if total else received
        answer = [piece.serialize() for piece in total]
        self.down += sum(map(len, answer)) * len(self._rows)
        mean = adapter
        for _ in self._rows:  # each site decrypts for itself
            mean = self._decrypt(answer)
        return mean

    def _encrypt(self, values: Vector) -> list[bytes]:
        pieces = [values[start : start + _SLOTS] for start in range(0, values.size, _SLOTS)]
        return [self._tenseal.ckks_vector(self._secret, piece).serialize() for piece in pieces]

    def _decrypt(self, pieces: list[bytes]) -> Vector:
        read = self._tenseal.ckks_vector_from
        return np.concatenate([read(self._secret, piece).decrypt() for piece in pieces])


def _library() -> Any:
    try:
        import tenseal
    except ImportError as error:
        raise SystemExit("the CKKS peer needs TenSEAL: pip install '.[bench]'") from error
    return tenseal
