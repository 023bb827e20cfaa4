"""Noise against a hand computation, and what nobody may foresee or read off it."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch
from scipy import stats

from sealtune.errors import PadReuseError
from sealtune.privacy.noise import GRID_BITS, NoiseStream, grid_step

COUNT = 200_001


def test_it_is_gaussian() -> None:
    """Kolmogorov and Smirnov, each half of the pairs, and the two together: independent."""
    made = NoiseStream().gaussian(COUNT)
    for part in (made, made[: COUNT // 2], made[COUNT // 2 :]):
        assert stats.kstest(part, "norm").pvalue > 1e-6
    assert abs(made.mean()) < 5 / math.sqrt(COUNT)
    assert abs(made.var() - 1) < 5 * math.sqrt(2 / COUNT)
    halves = made[: COUNT // 2], made[COUNT // 2 : COUNT // 2 * 2]
    assert abs(np.corrcoef(*halves)[0, 1]) < 5 / math.sqrt(COUNT // 2)
    assert abs(np.corrcoef(*(half**2 for half in halves))[0, 1]) < 5 / math.sqrt(COUNT // 2)


def test_the_deviate_of_known_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: u = 1/2 and a quarter of a turn give sqrt(2 ln 2) sin, the smallest u the tail."""
    half, quarter = 2**63 - 1, 2**62
    words = np.array([half, 0, quarter, 0], np.uint64)
    stream = NoiseStream()
    monkeypatch.setattr(stream, "words", lambda count: words[:count])
    made = stream.gaussian(4)
    assert made == pytest.approx(
        [0.0, math.sqrt(128 * math.log(2)), math.sqrt(2 * math.log(2)), 0.0], abs=1e-12
    )


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    values = np.linspace(-3, 3, COUNT, dtype=np.float32)
    noise = NoiseStream().add_noise(values, 0.37) - values
    assert stats.kstest(noise / 0.37, "norm").pvalue > 1e-6
    assert abs(noise.std() / 0.37 - 1) < 5 / math.sqrt(2 * COUNT)


def test_the_seed_does_not_determine_it() -> None:
    """Attack: whoever knows the job's seed makes the noise anew."""
    drawn = []
    for _ in range(2):
        np.random.seed(3)
        torch.manual_seed(3)
        drawn.append(NoiseStream().add_noise(np.zeros(1000), 1.0))
    assert np.count_nonzero(drawn[0] == drawn[1]) < 5
    stream = NoiseStream()
    assert not (stream.words(1000) == stream.words(1000)).any()


@pytest.mark.parametrize("deviation", [1e-6, 0.37, 1.0, 5.5])
def test_no_bit_of_the_value_is_below_the_noise(deviation: float) -> None:
    """Attack of Mironov (CCS 2012): two values that differ by less than the grid's step look the
    same in every bit, since all that comes out is a whole number of steps.
    """
    step = grid_step(deviation)
    assert 2**GRID_BITS <= deviation / step < 2 ** (GRID_BITS + 1)
    assert math.frexp(step)[0] == 0.5
    for value in (0.1 * deviation, math.pi * deviation, -1.7):
        out = NoiseStream().add_noise(np.full(1000, value), deviation) / step
        assert (out == np.rint(out)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_values_that_noise_cannot_hide_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        NoiseStream().add_noise(np.array([0.0, value]), 1e-3)


def test_each_row_is_drawn_with_its_probability() -> None:
    stream = NoiseStream()
    counts = np.zeros(50)
    sizes = []
    for _ in range(4000):
        drawn = stream.chosen(50, 0.04)
        counts[drawn] += 1
        sizes.append(len(drawn))
    assert abs(np.mean(sizes) - 2) < 5 * math.sqrt(50 * 0.04 * 0.96 / 4000)
    assert abs(np.var(sizes) - 50 * 0.04 * 0.96) < 0.4  # binomial, and no fixed size
    assert stats.chisquare(counts).pvalue > 1e-6
    assert 0 in sizes
    assert stream.chosen(3, 1.0) == [0, 1, 2]
    assert stream.chosen(3, 1e-30) == []


def test_a_forked_process_draws_nothing() -> None:
    stream = NoiseStream()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stream.words(1)
        except PadReuseError:
            os.write(write, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as told:
        assert told.read() == "refused"
