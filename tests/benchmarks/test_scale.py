"""``benchmarks/scale.py``: its fits are those of the power laws that the costs follow."""

from __future__ import annotations

import sys

import pytest

from tests.benchmarks.scripts import FOLDER

sys.path.insert(0, str(FOLDER))
from scale import Fit


def test_a_power_law_is_found_and_carried_on() -> None:
    sizes = [1, 2, 4, 8, 64]
    fit = Fit.of(sizes, [3 * size**1.5 for size in sizes])
    assert fit.exponent == pytest.approx(1.5)
    assert fit.error == pytest.approx(0, abs=1e-6)
    assert fit.off == pytest.approx(0, abs=1e-9)
    assert fit.at(1000) == pytest.approx(3 * 1000**1.5)


def test_what_the_largest_size_costs_beyond_the_others_law_shows() -> None:
    fit = Fit.of([1, 2, 4, 8], [1.0, 2.0, 4.0, 16.0])
    assert fit.off == pytest.approx(-0.5)
    assert fit.exponent > 1.1
    assert fit.error is not None
    assert fit.error > 0.1
