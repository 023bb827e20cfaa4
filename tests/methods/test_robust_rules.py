"""Rules that bear attackers, against numpy, scipy and a loop that follows the paper's words."""

from __future__ import annotations

import tracemalloc
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.stats import trim_mean

from sealtune.methods.federated.aggregation import Rule
from sealtune.methods.federated.rules.coordinatewise import median, trimmed_mean
from sealtune.methods.federated.rules.multi_krum import chosen, distances
from sealtune.methods.federated.rules.registry import RULES
from tests.methods.rounds import Tensors, context, tensors

Array = np.ndarray[Any, Any]
NUMBERS = st.floats(-1e6, 1e6, width=32)
STACKS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=NUMBERS)
SITES = [f"s{i}" for i in range(5)]


@given(STACKS)
def test_median_is_numpys(stack: Array) -> None:
    assert np.array_equal(median(stack), np.median(stack.astype(np.float64), axis=0))


@given(STACKS, st.floats(0.01, 0.49))
def test_trimmed_mean_is_scipys(stack: Array, trim: float) -> None:
    each = int(trim * len(stack))
    oracle = trim_mean(stack.astype(np.float64), trim, axis=0)
    assert np.allclose(trimmed_mean(stack, each), oracle, rtol=1e-12, atol=1e-9)


def krum_by_the_paper(vectors: Array, f: int) -> set[int]:
    """Section 4: score(i) is the sum over the n - f - 2 vectors closest to V_i."""
    n, scores = len(vectors), []
    for i in range(n):
        apart = sorted(float(((vectors[i] - vectors[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append((sum(apart[: n - f - 2]), i))
    return {i for _, i in sorted(scores)[: n - f]}


@given(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_multi_krum_chooses_as_in_the_paper(f: int, more: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(2 * f + 3 + more, 6))
    found = chosen(distances(vectors @ vectors.T), f)
    assert set(found) == krum_by_the_paper(vectors, f)


def updates(count: int) -> dict[str, Tensors]:
    return {f"s{i}": tensors(i + 1, 0.01) for i in range(count)}


def rule(name: str, folder: Path, weights: dict[str, int], **aggregation: Any) -> Rule:
    given = {"rule": name, **aggregation}
    sites = {"names": tuple(weights)}
    return RULES[name]()(context(weights, folder=folder, aggregation=given, sites=sites))


def made(before: Tensors, oracle: Any) -> Tensors:
    """The adapter that an oracle for one tensor of all updates gives."""
    return {
        name: (old + oracle([update[name].astype(np.float64) for update in updates(5).values()]))
        for name, old in before.items()
    }


WEIGHTS = {site: 10 * (i + 1) for i, site in enumerate(SITES)}
KRUM = np.array([0.0, *list(WEIGHTS.values())[1:]])  # the first site is far away: see below
ORACLES: dict[str, Any] = {
    "median": lambda stack: np.median(stack, axis=0),
    "trimmed-mean": lambda stack: trim_mean(stack, 0.2, axis=0),
    "multi-krum": lambda stack: np.tensordot(KRUM / KRUM.sum(), stack, 1),
}


@pytest.mark.parametrize("name", ORACLES)
def test_a_round_of_a_rule_is_its_oracle_whatever_the_order(name: str, tmp_path: Path) -> None:
    sent = updates(5)
    if name == "multi-krum":
        sent["s0"] = {n: t * 4 for n, t in sent["s0"].items()}
    results = []
    for order in list(permutations(SITES))[::17]:
        round_ = rule(name, tmp_path, WEIGHTS)
        for site in order:
            round_.add(site, sent[site], WEIGHTS[site])
        results.append(round_.result())
    before = tensors(0, 0.1)
    for tensor, oracle in made(before, ORACLES[name]).items():
        assert results[0][tensor].dtype == np.float32
        assert np.allclose(results[0][tensor], oracle, rtol=1e-6, atol=1e-9), tensor
        for other in results[1:]:
            assert np.array_equal(other[tensor], results[0][tensor]), tensor


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("value", [0.0, 1e-42, 3e38, -3e38])
def test_no_single_update_takes_the_result_out_of_range(
    name: str, value: float, tmp_path: Path
) -> None:
    """However large a number may be that passed the bounds; denormals are numbers as others."""
    round_ = rule(name, tmp_path, WEIGHTS)
    sent = updates(5)
    sent["s2"] = {n: np.full_like(t, value) for n, t in sent["s2"].items()}
    for site in SITES:
        round_.add(site, sent[site], WEIGHTS[site])
    result = round_.result()
    assert all(np.abs(t).max() < 1 for t in result.values())


def test_memory_does_not_grow_with_sites(tmp_path: Path) -> None:
    """Beyond a chunk of each site at a time."""
    peaks = []
    big = {"a": np.ones((300, 4000), np.float32)}
    for count in (5, 40):
        weights = {f"s{i:02}": 1 for i in range(count)}
        for name in ORACLES:
            round_ = RULES[name]()(
                context(
                    weights,
                    big,
                    folder=tmp_path,
                    aggregation={"rule": name},
                    sites={"names": tuple(weights)},
                )
            )
            tracemalloc.start()
            for site in weights:
                round_.add(site, big, 1)
            round_.result()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    update = big["a"].nbytes
    assert max(peaks) < 35 * update / 5, [peak / update for peak in peaks]
