"""The budget of ring codes, which cannot overflow; ``passes`` encodes with it.

Each row of ``x`` is scaled so that ``|round(f x)|_2 * max_n |W_n|_2 < 2^30``. By Cauchy-Schwarz
every entry of ``W round(f x)`` then lies in (-2^30, 2^30), half of what int32 holds. The spare bit
is not waste: a result outside that range proves a lie (see ``prime_check``).

Trust domain: client enclave.
"""

from __future__ import annotations

import math

from sealtune.errors import OffloadError

RESULT_LIMIT = 2**30  # every honest result is smaller in absolute value
_MARGIN = 1 - 2.0**-14  # covers float32 rounding of norms, scales and products


class Budget:
    """How large the codes may become for one weight matrix.

    Args:
        weight_norm: largest 2-norm among the vectors that a code row is multiplied with.
        inner: length of a code row.
    """

    def __init__(self, weight_norm: float, inner: int) -> None:
        # rounding moves a row by at most sqrt(K) / 2
        self.code_norm = _MARGIN * RESULT_LIMIT / max(weight_norm, 1.0) - 0.5 * math.sqrt(inner)
        if self.code_norm < 2**8 * math.sqrt(inner):
            raise OffloadError(
                f"a weight matrix with norm {weight_norm:.3g} leaves fewer than 8 bits per value",
                hint="keep this layer in the enclave, or quantise it to smaller codes",
            )

    @property
    def bits(self) -> float:
        """Bits below the 2-norm of a row: its relative resolution is 2^-bits."""
        return math.log2(self.code_norm)
