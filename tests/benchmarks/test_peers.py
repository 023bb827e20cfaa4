"""``benchmarks/peers.py``: every peer's round is the mean of what its sites trained."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.scripts import FOLDER

sys.path.insert(0, str(FOLDER))
from peers_flower import fly

ROWS = {"north": 10, "south": 20, "west": 50}
STEP = {"north": 1.0, "south": -2.0, "west": 0.5}
MEAN = sum(ROWS[site] * STEP[site] for site in ROWS) / sum(ROWS.values())


@pytest.mark.parametrize(("secure", "error"), [(False, 1e-6), (True, 5e-4)])
def test_flower_averages(secure: bool, error: float) -> None:
    first = [np.linspace(-1, 1, 300, dtype=np.float32).reshape(20, 15), np.zeros(3, np.float32)]
    rounds: list[tuple[str, int]] = []

    def train(site: str, arrays: Any, number: int) -> Any:
        rounds.append((site, number))
        return [(array + STEP[site]).astype(np.float32) for array in arrays], ROWS[site]

    flown = fly(list(ROWS), first, train, 2, secure=secure)
    assert sorted(rounds) == sorted((site, number) for site in ROWS for number in (1, 2))
    for before, after in zip(first, flown.adapter, strict=True):
        assert after.shape == before.shape
        assert np.abs(after - before - 2 * MEAN).max() < error
    plain = 2 * len(ROWS) * sum(array.nbytes for array in first)
    assert min(flown.up, flown.down) > plain


def test_ciphertexts_add_up_to_the_mean() -> None:
    pytest.importorskip("tenseal")
    from peers_ckks import Ckks

    federation = Ckks(ROWS)
    adapter = np.linspace(-1, 1, 5000)
    after = federation.round(adapter, 1, lambda site, vector, number: vector + STEP[site])
    assert np.abs(after - adapter - MEAN).max() < 1e-6
    assert federation.up == pytest.approx(federation.down, rel=0.01)
    assert federation.up > 3 * 4 * adapter.size * 10  # ten times the adapter in float32
