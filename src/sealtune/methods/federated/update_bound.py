"""How far an honest round can move an adapter; an update beyond that is not averaged.

A round starts a fresh AdamW at the global adapter, so its settings alone bound every number. One
step moves it by at most its learning rate times S besides weight decay, where by Cauchy-Schwarz

    |m_t| / sqrt(v_t) <= S = (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) = 7.27

whatever the gradients are (bias correction only lowers it; after Kingma and Ba, arXiv 1412.6980,
section 2.1, where the bound is that of one gradient alone). Nothing honest is ever refused, and one
site cannot push the average, and with it the next round of the others, out of range.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sealtune.job.sections import TrainSpec, TuningSpec

_BETA_1, _BETA_2 = 0.9, 0.999  # torch's defaults, with which every site trains
LARGEST_STEP = (1 - _BETA_1) / math.sqrt((1 - _BETA_2) * (1 - _BETA_1**2 / _BETA_2))
_ULP = 2.0**-23  # what rounding to float32 may add in one step, relative
_SLACK = 1.01


class UpdateBound:
    """The bound of one site's round.

    Args:
        train: the job's settings.
        tuning: as well: some tensors have a learning rate of their own.
        shares: what each step of the round multiplies its learning rates with (``rate_shares``).
    """

    def __init__(self, train: TrainSpec, tuning: TuningSpec, shares: Sequence[float]) -> None:
        self._train, self._tuning, self._shares = train, tuning, shares
        self._reaches: dict[float, tuple[float, float]] = {}

    def limits(self, magnitudes: Mapping[str, float]) -> dict[str, float]:
        """Tensor -> how far a round takes any number in it, given the largest that it begins with.

        Weight decay moves large numbers more: what it does to the largest is allowed for all.
        """
        return {name: self._limit(name, largest) for name, largest in magnitudes.items()}

    def _limit(self, name: str, largest: float) -> float:
        rate = self._tuning.learning_rate(name, self._train)
        if rate not in self._reaches:
            self._reaches[rate] = self._reach(rate)
        moved, shrink = self._reaches[rate]
        return moved + shrink * largest

    def _reach(self, rate: float) -> tuple[float, float]:
        """How far steps take any number, and which share of it weight decay takes off."""
        moved, kept = 0.0, 1.0
        for share in self._shares:
            keep = 1 - rate * share * self._train.weight_decay  # at least 0: see ``tuning_rules``
            moved, kept = keep * moved + rate * share * LARGEST_STEP, keep * kept
        return moved * _SLACK, 1 - kept + len(self._shares) * _ULP
