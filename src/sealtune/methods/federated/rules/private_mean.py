"""The mean of the sites' updates with noise: differential privacy of each site's presence.

Every update has been clipped to the same norm, whatever its rows, and counts once: so one site
moves the sum by at most ``privacy.clip``, and noise in proportion to that hides it (McMahan et al.,
arXiv 1710.06963). Clipping and noise are in the place of ``aggregation.norm_bound`` and of weights.
The sum is divided by the number of sites that were asked, which is public: how many answered
changes the noise in the result no more than the sum does.

Updates are rounded towards zero to the grid of the noise, which makes none of them longer, and
added as integers.

Trust domain: server enclave.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.pieces import pieces
from sealtune.privacy.noise import NoiseStream, grid_step

_MARGIN = 2.0**-20  # of the norm: what clipping an update in float32 may leave too much


class PrivateMean:
    """One running sum, int64.

    Args:
        context: of the round.
        deviation: of the noise in the sum.
    """

    def __init__(self, context: RoundContext, deviation: float) -> None:
        self._before, self._deviation = context.before, deviation
        self._asked = context.settings.asked
        self._step = grid_step(deviation)
        shapes = context.shapes.items()
        self._sums = {name: np.zeros(math.prod(shape), np.int64) for name, shape in shapes}

    def add(self, _site: str, update: Tensors, _weight: int, /) -> None:
        """See ``Rule``; the update has been clipped, and its weight is not used."""
        for name, total in self._sums.items():
            flat = update[name].reshape(-1)
            for piece in pieces(flat.size):
                steps = flat[piece] * np.float64((1 - _MARGIN) / self._step)
                total[piece] += np.trunc(steps, out=steps).astype(np.int64)

    def result(self) -> dict[str, NDArray[np.float32]]:
        """See ``Rule``; asked twice, it would spend twice."""
        stream, after = NoiseStream(), {}
        for name, total in sorted(self._sums.items()):
            before = self._before[name]
            new = np.empty(before.size, np.float32)
            old = before.reshape(-1)
            for piece in pieces(total.size):
                noisy = total[piece] + stream.steps(piece.stop - piece.start, self._deviation)
                new[piece] = old[piece] + noisy * (self._step / self._asked)
            after[name] = new.reshape(before.shape)
        return after
