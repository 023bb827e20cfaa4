"""``fedavg``: the mean of the sites' updates, weighted by signed training rows.

McMahan et al., arXiv 1602.05629. Terms are rounded to a grid, fixed before the round begins, and
summed as integers: the sum is exact, whatever the order of the sites.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import ModelError
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.pieces import PIECE, in_threads, pieces

_BITS = 51  # of the largest term, in steps of the grid; 2^63 is far beyond 64 of them


class FedAvg:
    """One running sum, int64; one update beside it at a time.

    With ``s`` the grid's step, ``1.5 * 2^52 s`` plus a term of magnitude up to ``2^51 s`` is a
    double between ``2^52 s`` and ``2^53 s``, where doubles are ``s`` apart: the addition rounds the
    term to the grid, and the double's bits, read as an integer, have grown by the term in steps.

    Args:
        context: of the round.
    """

    def __init__(self, context: RoundContext) -> None:
        self._before = context.before
        largest = context.reach * max(context.weights.values())
        self._step = 2.0 ** (math.frexp(largest)[1] - _BITS)
        self._shift = np.float64(1.5 * 2**52 * self._step)
        self._sums = {n: np.zeros(int(np.prod(s)), np.int64) for n, s in context.shapes.items()}
        self._sizes = {name: total.size for name, total in self._sums.items()}
        self._weight = self._terms = 0

    def add(self, _site: str, update: Tensors, weight: int, /) -> None:
        """See ``Rule``."""

        def add(names: Sequence[str]) -> None:
            scratch = np.empty(PIECE)
            for name in names:
                total, flat = self._sums[name], update[name].reshape(-1)
                for piece in pieces(flat.size):
                    term = scratch[: piece.stop - piece.start]
                    np.multiply(flat[piece], np.float64(weight), out=term)
                    np.add(term, self._shift, out=term)
                    whole = total[piece]  # wraps around, as the shifts do in ``result``
                    np.add(whole, term.view(np.int64), out=whole)

        in_threads(add, self._sizes)
        self._weight += weight
        self._terms += 1

    def result(self) -> dict[str, NDArray[np.float32]]:
        """See ``Rule``.

        Raises:
            ModelError: nothing was added.
        """
        if self._weight == 0:
            raise ModelError("there is nothing to average")
        shifts = np.uint64(self._terms * int(self._shift.view(np.int64)) % 2**64).view(np.int64)
        after, scratch = {}, np.empty(PIECE)
        for name, before in self._before.items():
            total = self._sums.pop(name)  # its memory is what the result takes
            np.subtract(total, shifts, out=total)
            new = np.empty(before.shape, np.float32)
            flat, old = new.reshape(-1), before.reshape(-1)
            for piece in pieces(total.size):
                term = scratch[: piece.stop - piece.start]
                np.multiply(total[piece], self._step / self._weight, out=term)
                np.add(term, old[piece], out=term)
                flat[piece] = term
            after[name] = new
        return after
