"""Verdicts follow from intervals; intervals hold what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sealtune.audit import statistics
from sealtune.audit.finding import Finding, Rate, Verdict

GUESSED, FOUND = Rate(0.5, 0.4, 0.6, 100), Rate(0.9, 0.8, 0.95, 100)


@pytest.mark.parametrize(
    ("baseline", "protected", "limit", "verdict"),
    [
        (FOUND, GUESSED, False, "held"),
        (FOUND, FOUND, False, "broken"),
        (FOUND, Rate(0.6, 0.51, 0.7, 100), False, "broken"),
        (FOUND, FOUND, True, "limit"),
        (FOUND, None, True, "limit"),
        (FOUND, GUESSED, True, "held"),
        (GUESSED, GUESSED, False, "attack too weak"),
        (GUESSED, FOUND, False, "attack too weak"),
    ],
)
def test_verdicts(baseline: Rate, protected: Rate | None, limit: bool, verdict: str) -> None:
    finding = Finding("a", "", "right answers", 0.5, baseline, protected, limit)
    assert finding.verdict is Verdict(verdict)


def test_what_no_verdict_follows_from_is_refused() -> None:
    with pytest.raises(ValueError, match="it is a limit"):
        Finding("a", "", "right answers", 0.5, FOUND, None)
    for odd in ((math.nan, 0.0, 1.0, 9), (0.5, 0.6, 0.7, 9), (0.5, 0.4, 0.6, 0)):
        with pytest.raises(ValueError, match="is no rate"):
            Rate(*odd)


def test_wilsons_interval_against_its_formula() -> None:
    """Roots of (p - x)^2 = z^2 x (1 - x) / n."""
    for successes, trials in ((0, 20), (3, 20), (20, 20), (700, 1000)):
        rate = statistics.share(successes, trials)
        p, z = successes / trials, statistics._Z
        roots = np.roots([1 + z * z / trials, -(2 * p + z * z / trials), p * p]).real
        assert [rate.low, rate.high] == pytest.approx(sorted(roots), abs=1e-7)
    for odd in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="is no share"):
            statistics.share(*odd)


def test_intervals_miss_what_is_true_as_seldom_as_they_say() -> None:
    draw = np.random.default_rng(1)
    counts = draw.binomial(200, 0.3, size=4000)
    rates = {int(n): statistics.share(int(n), 200) for n in np.unique(counts)}
    missed = np.mean([not rates[int(n)].low <= 0.3 <= rates[int(n)].high for n in counts])
    assert missed < 0.003
    means = [statistics.mean(draw.normal(1.0, 2.0, 60), seed=i) for i in range(60)]
    assert all(rate.low <= 1.0 <= rate.high for rate in means)
    width = np.mean([rate.high - rate.low for rate in means])
    assert width == pytest.approx(2 * statistics._Z * 2 / 60**0.5, rel=0.1)


def test_auc_is_the_usual_one() -> None:
    draw = np.random.default_rng(2)
    members, others = draw.integers(0, 9, 80) + 1.0, draw.integers(0, 9, 120)
    rate = statistics.auc(members, others)
    labels = [1] * 80 + [0] * 120
    assert rate.value == pytest.approx(roc_auc_score(labels, np.concatenate([members, others])))
    assert rate.low < rate.value < rate.high
    assert rate == statistics.auc(members, others)  # the same again
    assert statistics.auc(others, others).low < 0.5
    with pytest.raises(ValueError, match="empty or not finite"):
        statistics.auc(members, [math.nan])
