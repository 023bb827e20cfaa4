"""``median`` and ``trimmed-mean``: every number of the update for itself, one vote a site.

Yin et al., arXiv 1803.01498. Signed rows do not count: a site of many rows would have many votes.
A site can move a number no farther than the others' own numbers lie apart.

Trust domain: server enclave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from sealtune.job.robust_rules import left_out
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.spool import Spool

Stack = NDArray[np.float32]  # [n, m]: m numbers of n sites
Row = NDArray[np.float64]  # [m]


class Coordinatewise(ABC):
    """A rule that looks at one number of all sites at a time; updates lie in a spool.

    Args:
        context: of the round.
    """

    def __init__(self, context: RoundContext) -> None:
        self._context = context
        self._spool = Spool(context.folder)

    @abstractmethod
    def centre(self, stack: Stack) -> Row:
        """One value for each column."""

    def add(self, site: str, update: Tensors, _weight: int, /) -> None:
        """See ``Rule``."""
        self._spool.put(site, update)

    def result(self) -> dict[str, NDArray[np.float32]]:
        """See ``Rule``.

        Raises:
            StorageError: the updates on disk were altered.
        """
        after = {}
        with self._spool as spool:
            for name, before in self._context.before.items():
                old, new = before.reshape(-1), np.empty(before.shape, np.float32)
                for start in range(0, old.size, Spool.CHUNK):
                    stop = min(start + Spool.CHUNK, old.size)
                    moved = self.centre(spool.stack(name, start, stop))
                    new.reshape(-1)[start:stop] = old[start:stop] + moved
                after[name] = new
        return after


class Median(Coordinatewise):
    """The middle value; of an even number of sites the mean of the two in the middle."""

    def centre(self, stack: Stack) -> Row:
        """See ``Coordinatewise``."""
        return median(stack)


class TrimmedMean(Coordinatewise):
    """The mean without the lowest and the highest: ``aggregation.trim`` of the sites each."""

    def centre(self, stack: Stack) -> Row:
        """See ``Coordinatewise``."""
        return trimmed_mean(stack, left_out(self._context.settings.aggregation.trim, len(stack)))


def median(stack: Stack) -> Row:
    """The median of each column."""
    n = len(stack)
    low, high = (n - 1) // 2, n // 2
    ordered = np.partition(stack, (low, high), axis=0)
    middle: Row = (ordered[low].astype(np.float64) + ordered[high]) / 2
    return middle


def trimmed_mean(stack: Stack, each: int) -> Row:
    """The mean of each column without the ``each`` lowest and the ``each`` highest values."""
    ordered = np.sort(stack, axis=0)[each : len(stack) - each]
    mean: Row = ordered.mean(axis=0, dtype=np.float64)
    return mean
