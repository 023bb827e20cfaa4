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

import numpy as np

from sealtune.errors import UpdateBoundError
from sealtune.job.sections import TrainSpec
from sealtune.methods.federated.adapter import Tensors

_BETA_1, _BETA_2 = 0.9, 0.999  # torch's defaults, with which every site trains
LARGEST_STEP = (1 - _BETA_1) / math.sqrt((1 - _BETA_2) * (1 - _BETA_1**2 / _BETA_2))
_ULP = 2.0**-23  # what rounding to float32 may add in one step, relative
_SLACK = 1.01


class UpdateBound:
    """The bound of one site's rounds.

    Args:
        train: the job's settings.
        rows: the site's signed number of training rows.
        first_values: largest magnitude in each tensor as sites draw it at the start of a job
            (``SlicePlan.first_values``).
    """

    def __init__(self, train: TrainSpec, rows: int, first_values: Mapping[str, float]) -> None:
        self._first_values = first_values
        steps = train.steps(rows)
        keep = abs(1 - train.learning_rate * train.weight_decay)  # at most 1: see TrainSpec
        self._kept = keep**steps
        decay = steps if keep == 1 else (1 - self._kept) / (1 - keep)
        self.move = train.learning_rate * LARGEST_STEP * decay * _SLACK
        self._shrink = 1 - self._kept + steps * _ULP

    def check(self, update: Tensors, before: Tensors | None) -> None:
        """Hold an update against the adapter that its round began with.

        Args:
            update: float32 tensors by name, finite or not.
            before: the global adapter; None: the one that every site draws from the job's seed.

        Raises:
            UpdateBoundError: a coordinate is farther away than an honest round can take it.
        """
        for name, tensor in update.items():
            if before is None:
                start = self._first_values[name] * (1 + _ULP)
                moved, limit = np.abs(tensor), np.full(1, start + self.move)
            else:
                moved = np.abs(tensor - before[name])
                limit = self.move + self._shrink * np.abs(before[name])
            if not (moved <= limit).all():  # NaN fails the comparison, too
                raise UpdateBoundError(
                    f"{name} was moved by {float(moved.max()):.3g}; an honest round moves a number "
                    f"by at most {float(limit.max()):.3g}",
                    hint="its training diverged, or it sends something else than it trained",
                )
