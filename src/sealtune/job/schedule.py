"""The learning rates' way through a job: ``train.schedule`` and ``train.warmup``.

Where a number is given to every step of a job, a step's share of its learning rate follows from its
number alone: so a job that goes on after an interruption needs to keep nothing of it.

Trust domain: every process; settings only.
"""

from __future__ import annotations

import math

from sealtune.job.sections import TrainSpec

_ROUNDING = 1e-9  # 0.1 * 30 is a little more than 3


def rate_shares(train: TrainSpec, steps: int, number: int, rounds: int) -> list[float]:
    """What each step of a round multiplies its learning rates with, above 0 and at most 1.

    Those of ``transformers.get_cosine_schedule_with_warmup`` and of the one with a constant rate,
    without the steps at either end whose rate is 0.

    Args:
        train: the job's settings.
        steps: of a round.
        number: of the round, from 1.
        rounds: of the job.

    Raises:
        ValueError: the job has no such round.
    """
    if not 1 <= number <= rounds and train.changes_rates:
        raise ValueError(f"round {number} of a job of {rounds}")
    total, first = rounds * steps, (number - 1) * steps
    warm = math.ceil(train.warmup * total - _ROUNDING)
    return [_share(train, done, warm, total) for done in range(first + 1, first + steps + 1)]


def falling(steps: int) -> list[float]:
    """The same of steps that end by themselves: from the whole rate down to nothing after them."""
    return [1 - done / steps for done in range(steps)]


def _share(train: TrainSpec, done: int, warm: int, total: int) -> float:
    """Of step ``done``, from 1."""
    if done < warm:
        return done / warm
    if train.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (done - warm) / (total + 1 - warm))) / 2
