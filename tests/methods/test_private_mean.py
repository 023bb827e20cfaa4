"""The noisy mean: how far one site moves it, what noise is in it, and what does not count."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sealtune.job.federated_sections import PrivacySpec
from sealtune.methods.federated.adapter import write_adapter
from sealtune.methods.federated.norm_bound import NormBound
from sealtune.methods.federated.rules.private_mean import PrivateMean
from sealtune.methods.federated.update import Update
from sealtune.privacy.noise import NoiseStream, grid_step
from tests.methods.rounds import SHAPES, Tensors, context, job, tensors

NAMED = {"names": ["north", "south", "west", "east"]}
CLIP, DEVIATION = 0.8, 1.2
ROWS = {"north": 7, "south": 900, "west": 31, "east": 123456}
PRIVATE = PrivacySpec(unit="site", epsilon=8.0, clip=CLIP)
ZEROS: Tensors = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def flat(values: Tensors) -> np.ndarray:
    return np.concatenate([values[name].reshape(-1) for name in SHAPES]).astype(np.float64)


def clipped(tensors_: Tensors) -> Tensors:
    """As a round clips a site's update before the rule gets it."""
    norm = float(np.linalg.norm(flat(tensors_)))
    update = Update(tensors_, {n: np.zeros_like(t) for n, t in tensors_.items()}, norm)
    sizes = {site: {"x": flat(ZEROS).size} for site in ROWS}
    bound = NormBound(job(privacy=PRIVATE), sizes, {site: [1.0] for site in ROWS}, 1.0)
    assert bound.of("north") == bound.of("east") == CLIP
    return dict(replace(update, factor=bound.clip("north", norm)))


def total(updates: dict[str, Tensors], order: tuple[str, ...] | None = None) -> np.ndarray:
    """The sum of the updates, from a result that begins at zero."""
    rule = PrivateMean(context(ROWS, dict(ZEROS), sites=NAMED), DEVIATION)
    for site in order or tuple(updates):
        rule.add(site, updates[site], ROWS[site])
    return len(ROWS) * flat(rule.result())


@pytest.fixture
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseStream, "steps", lambda _self, count, _d: np.zeros(count, np.int64))


@pytest.mark.usefixtures("_silent")
@pytest.mark.parametrize("scale", [1e3, 1e-3, 1e30])
def test_a_huge_update_moves_the_sum_by_the_clip_at_most(scale: float) -> None:
    """Attack: one site sends as much as float32 holds, to be seen through any noise."""
    updates = {site: clipped(tensors(i, 0.1)) for i, site in enumerate(ROWS, 1)}
    without = total({**updates, "east": ZEROS})
    hostile = {n: np.float32(scale) * np.sign(t) for n, t in tensors(9).items()}
    moved = total({**updates, "east": clipped(hostile)}) - without
    rounding = 1e-6  # of the result, which is float32
    assert np.linalg.norm(moved) <= CLIP * (1 + rounding)
    if scale >= 1:
        assert np.linalg.norm(moved) > 0.999 * CLIP


@pytest.mark.usefixtures("_silent")
def test_rounding_lengthens_no_update() -> None:
    """On the grid: whole steps, whose norm is at most the clip in exact arithmetic."""
    step = grid_step(DEVIATION)
    for seed in range(20):
        rule = PrivateMean(context(ROWS, dict(ZEROS), sites=NAMED), DEVIATION)
        rule.add("north", clipped(tensors(seed, 10.0)), 7)
        squares = sum(int(s) ** 2 for sums in rule._sums.values() for s in sums)
        assert math.sqrt(squares) * step > 0.999 * CLIP
        assert squares <= math.floor((CLIP / step) ** 2)


@pytest.mark.usefixtures("_silent")
def test_rows_do_not_weigh_and_the_order_does_not_matter() -> None:
    updates = {site: clipped(tensors(i, 0.001)) for i, site in enumerate(ROWS, 1)}
    results = set()
    for order in itertools.permutations(ROWS):
        rule = PrivateMean(context(ROWS, sites=NAMED), DEVIATION)
        for site in order:
            rule.add(site, updates[site], ROWS[site])
        results.add(write_adapter(rule.result()))
    assert len(results) == 1
    plain = sum(flat(update) for update in updates.values()) / 4
    np.testing.assert_allclose(total(updates) / 4, plain, atol=4 * grid_step(DEVIATION))


@pytest.mark.usefixtures("_silent")
def test_who_is_away_is_divided_by_all_the_same() -> None:
    """The divisor is public: it does not tell who answered."""
    updates = {site: clipped(tensors(1, 0.001)) for site in ROWS}
    three = total({site: updates[site] for site in list(ROWS)[:3]})
    np.testing.assert_allclose(three, 0.75 * total(updates), rtol=1e-3, atol=1e-6)


def test_the_noise_is_that_of_the_hand_computation() -> None:
    """Deviation of the mean: noise multiplier x clip / number of sites."""
    updates = {site: clipped(tensors(i, 0.1)) for i, site in enumerate(ROWS, 1)}
    exact = sum(flat(update) for update in updates.values())
    noise = (total(updates) - exact) / DEVIATION
    assert stats.kstest(noise, "norm").pvalue > 1e-6
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.size)
    other = (total(updates) - exact) / DEVIATION
    assert abs(np.corrcoef(noise, other)[0, 1]) < 5 / math.sqrt(noise.size)  # drawn anew
