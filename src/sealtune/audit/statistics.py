"""Rates with their confidence intervals.

Of shares it is Wilson's (Wilson 1927, J. Am. Stat. Assoc. 22), of everything else the percentile
bootstrap (Efron 1979, Ann. Stat. 7), with a fixed seed.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sealtune.audit.finding import Rate

# an audit has dozens of findings: at 95 %, chance alone would call one broken in every other audit
LEVEL = 0.999
RESAMPLES = 10_000
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
_AT_ONCE = 1 << 22  # numbers drawn in one piece


def share(successes: int, trials: int) -> Rate:
    """Of independent trials that succeeded, with Wilson's interval.

    Raises:
        ValueError: no trials, or more successes than these.
    """
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} of {trials} is no share")
    p, z = successes / trials, _Z**2 / trials
    middle = (p + z / 2) / (1 + z)
    half = math.sqrt(z * (p * (1 - p) + z / 4)) / (1 + z)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Rate(p, min(low, p), max(high, p), trials)  # at 0 and 1, rounding puts p outside


def mean(values: ArrayLike, *, seed: int = 0) -> Rate:
    """Of independent values, such as one cosine for each matrix."""
    return bootstrap(lambda drawn: drawn.mean(axis=-1), np.asarray(values, np.float64), seed=seed)


def auc(members: ArrayLike, others: ArrayLike, *, seed: int = 0) -> Rate:
    """Area under the ROC curve of scores: how often a member's is above another's; ties count half.

    Chance is 0.5.
    """
    pair = np.asarray(members, np.float64), np.asarray(others, np.float64)
    return bootstrap(_auc, *pair, seed=seed)


def bootstrap(
    statistic: Callable[..., NDArray[np.float64]], *samples: NDArray[np.float64], seed: int = 0
) -> Rate:
    """A statistic of independent samples, each drawn anew with replacement.

    Args:
        statistic: of arrays ``[..., n_i]``, one for each sample, along their last axis: ``[...]``.
        samples: ``[n_i]`` each.

    Raises:
        ValueError: an empty sample, or values that are not finite.
    """
    if not all(sample.size and np.isfinite(sample).all() for sample in samples):
        raise ValueError("a sample is empty or not finite")
    draw, largest = np.random.default_rng(seed), max(sample.size for sample in samples)
    found: list[NDArray[np.float64]] = []
    for count in _pieces(max(1, _AT_ONCE // largest)):
        drawn = [s[draw.integers(s.size, size=(count, s.size))] for s in samples]
        found.append(statistic(*drawn))
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    value = float(statistic(*samples))
    low, high = np.quantile(np.concatenate(found), tails)
    size = min(sample.size for sample in samples)
    return Rate(value, min(float(low), value), max(float(high), value), size)


def _pieces(most: int) -> Sequence[int]:
    """``RESAMPLES`` in parts of at most ``most``."""
    whole, rest = divmod(RESAMPLES, most)
    return [most] * whole + [rest] * (rest > 0)


def _auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., n], [..., m] -> [...], by ranks (Mann and Whitney 1947)."""
    n, m = members.shape[-1], others.shape[-1]
    shape = members.shape[:-1]
    rows = zip(members.reshape(-1, n), np.sort(others.reshape(-1, m)), strict=True)
    wins = [
        (np.searchsorted(o, s, "left").sum() + np.searchsorted(o, s, "right").sum()) / (2 * n * m)
        for s, o in rows
    ]
    return np.asarray(wins, np.float64).reshape(shape)
