"""How far an honest round can move an adapter; an update beyond that is not averaged.

A round starts a fresh AdamW at the global adapter, so its settings alone bound every number. One
step moves it by at most ``learning_rate * S`` besides weight decay, where by Cauchy-Schwarz

    |m_t| / sqrt(v_t) <= S = (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) = 7.27

whatever the gradients are (bias correction only lowers it; after Kingma and Ba, arXiv 1412.6980,
section 2.1, where the bound is that of one gradient alone). Nothing honest is ever refused, and one
site cannot push the average, and with it the next round of the others, out of range.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sealtune.job.sections import TrainSpec, TuningSpec

_BETA_1, _BETA_2 = 0.9, 0.999  # torch's defaults, with which every site trains
LARGEST_STEP = (1 - _BETA_1) / math.sqrt((1 - _BETA_2) * (1 - _BETA_1**2 / _BETA_2))
_ULP = 2.0**-23  # what rounding to float32 may add in one step, relative
_SLACK = 1.01


class UpdateBound:
    """The bound of one site's rounds.

    Args:
        train: the job's settings.
        tuning: as well: some tensors have a learning rate of their own.
        rows: the site's signed number of training rows.
    """

    def __init__(self, train: TrainSpec, tuning: TuningSpec, rows: int) -> None:
        self._train, self._tuning, self._steps = train, tuning, train.steps(rows)

    def limits(self, magnitudes: Mapping[str, float]) -> dict[str, float]:
        """Tensor -> how far a round takes any number in it, given the largest that it begins with.

        Weight decay moves large numbers more: what it does to the largest is allowed for all.
        """
        return {name: self._limit(name, largest) for name, largest in magnitudes.items()}

    def _limit(self, name: str, largest: float) -> float:
        rate = self._train.learning_rate * self._tuning.rate_ratio(name)
        keep = abs(1 - rate * self._train.weight_decay)  # at most 1: see ``tuning_rules``
        kept = keep**self._steps
        decay = self._steps if keep == 1 else (1 - kept) / (1 - keep)
        shrink = 1 - kept + self._steps * _ULP
        return rate * LARGEST_STEP * decay * _SLACK + shrink * largest
