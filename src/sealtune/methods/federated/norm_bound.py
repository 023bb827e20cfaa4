"""The L2 norm to which each site's update is clipped (``aggregation.norm_bound``).

A site that trains ``k`` steps on ``d`` numbers moves them by ``learning_rate * k * sqrt(d)`` if
Adam takes each of them the same way in every step; where tensors or steps have rates of their own,
each counts by its rate. An update's norm over this is its ratio, which makes sites with many and
with few steps comparable. ``auto`` clips to a ratio: 1 in round 1, and then 1.5 times the median
ratio of the round before, measured before clipping: the honest majority sets it, and nobody has to
know how far a model moves. Where noise hides each site, the bound is ``privacy.clip``, the same for
all and in every round.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median_low

from sealtune.job.settings import Settings

FIRST_RATIO = 1.0
_GROWTH = 1.5


class NormBound:
    """The bounds of one round.

    Args:
        settings: of the job.
        sizes: site -> tensor of its update -> how many numbers it has.
        shares: site -> what each of its steps multiplies learning rates with (``rate_shares``).
        ratio: for ``auto``: what the round before left (``next_ratio``).

    Attributes:
        clipped: sites whose update was longer.
    """

    def __init__(
        self,
        settings: Settings,
        sizes: Mapping[str, Mapping[str, int]],
        shares: Mapping[str, Sequence[float]],
        ratio: float,
    ) -> None:
        train, rate_of = settings.train, settings.tuning.learning_rate
        squares = {
            site: sum(size * rate_of(name, train) ** 2 for name, size in own.items())
            for site, own in sizes.items()
        }
        private = settings.privacy.unit == "site"
        self._bound = settings.privacy.clip if private else settings.aggregation.norm_bound
        self._units = {
            site: math.fsum(of_steps) * math.sqrt(squares[site])
            for site, of_steps in shares.items()
        }
        self.ratio = ratio
        self._ratios: list[float] = []
        self.clipped: list[str] = []

    def of(self, site: str) -> float | None:
        """The largest norm that passes as it is; None: any."""
        if self._bound == "auto":
            return self.ratio * self._units[site]
        return None if self._bound == "none" else self._bound

    def clip(self, site: str, norm: float) -> float:
        """Take note of an update of this norm that is part of the round.

        Returns:
            what to multiply it with; 1: it is short enough.
        """
        self._ratios.append(norm / self._units[site])
        bound = self.of(site)
        if bound is None or norm <= bound:
            return 1.0
        self.clipped.append(site)
        return bound / norm

    @property
    def next_ratio(self) -> float:
        """For the round after this one; updates that are all 0 say nothing about it."""
        median = median_low(self._ratios) if self._ratios else 0.0
        return _GROWTH * median if median > 0 else self.ratio
