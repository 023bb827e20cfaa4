"""``multi-krum``: the mean of the updates that lie closest together, weighted by signed rows.

Blanchard et al., NeurIPS 2017, section 4 and, for m = n - f, section 5. Each of n updates is scored
by the sum of its squared distances to the n - f - 2 nearest others; the n - f lowest scores are
averaged. f is ``aggregation.attackers``, or what n sites can bear where updates of others were
refused (``TrainingRound.result``). The choice does not look at rows, the mean does.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sealtune.job.robust_rules import most_attackers
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.spool import Spool

Matrix = NDArray[np.float64]


class MultiKrum:
    """Updates lie in a spool, which is read twice: for the distances and for the mean.

    Args:
        context: of the round.
    """

    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._spool = Spool(context.folder)
        self._weights: dict[str, int] = {}

    def add(self, site: str, update: Tensors, weight: int, /) -> None:
        """See ``Rule``."""
        self._spool.put(site, update)
        self._weights[site] = weight

    def result(self) -> dict[str, NDArray[np.float32]]:
        """See ``Rule``.

        Raises:
            StorageError: the updates on disk were altered.
        """
        stated, before = self._context.settings.aggregation.attackers, self._context.before
        attackers = min(stated, most_attackers(len(self._weights)))
        with self._spool as spool:
            products = np.zeros((len(self._weights), len(self._weights)))
            for name, start, stop in self._chunks():
                stack = spool.stack(name, start, stop).astype(np.float64)
                products += stack @ stack.T
            share = np.zeros(len(self._weights))
            for i in chosen(distances(products), attackers):
                share[i] = self._weights[spool.sites[i]]
            share /= share.sum()
            after = {name: np.empty(old.shape, np.float32) for name, old in before.items()}
            for name, start, stop in self._chunks():
                moved = share @ spool.stack(name, start, stop)
                after[name].reshape(-1)[start:stop] = before[name].reshape(-1)[start:stop] + moved
        return after

    def _chunks(self) -> Iterator[tuple[str, int, int]]:
        for name, tensor in self._context.before.items():
            for start in range(0, tensor.size, Spool.CHUNK):
                yield name, start, min(start + Spool.CHUNK, tensor.size)


def distances(products: Matrix) -> Matrix:
    """Squared distances of n vectors, [n, n], from their inner products, [n, n]."""
    squares = np.diag(products)
    apart: Matrix = np.maximum(squares[:, None] + squares - 2 * products, 0.0)
    return apart


def chosen(distances: Matrix, attackers: int) -> list[int]:
    """Numbers of the n - f vectors with the lowest scores; of equal ones, the first.

    Args:
        distances: squared, [n, n], 0 on the diagonal.
        attackers: f, with n >= 2 f + 3.
    """
    n = len(distances)
    nearest = np.sort(distances, axis=1)[:, 1 : n - attackers - 1]  # without itself
    scores = nearest.sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[: n - attackers].tolist())
