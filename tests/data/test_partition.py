"""Dealing rows out: each exactly once, reproducibly, with the same mixture in train and test."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sealtune.data.partition import apportion, partition, subsample
from sealtune.errors import DataError

LABELS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=60)
PINNED_TRAIN = [[0, 3, 4, 5, 6, 7, 9, 10], [1, 2, 8, 11]]
PINNED_TEST = [[0, 1, 3, 4, 6, 7, 9, 11], [2, 5, 8, 10]]
SCHEMES = st.sampled_from(["dirichlet", "label"])


@settings(deadline=None)
@given(
    LABELS, LABELS, st.integers(1, 5), SCHEMES, st.sampled_from([0.1, 1.0, 50.0]), st.integers(0, 9)
)
def test_every_row_has_exactly_one_site(
    train: list[str],
    test: list[str],
    sites: int,
    scheme: Literal["dirichlet", "label"],
    alpha: float,
    seed: int,
) -> None:
    try:
        dealt = partition(train, test, sites, scheme=scheme, alpha=alpha, seed=seed)
    except DataError:
        return
    for rows, owned in zip((train, test), dealt, strict=True):
        assert len(owned) == sites
        assert sorted(np.concatenate(owned).tolist()) == list(range(len(rows)))
        assert all(len(mine) for mine in owned)
        assert all(a < b for mine in owned for a, b in pairwise(mine.tolist()))
    again = partition(train, test, sites, scheme=scheme, alpha=alpha, seed=seed)
    for one, other in zip(dealt, again, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_dirichlet_gives_train_and_test_the_same_mixture() -> None:
    train, test = ["a", "b", "c"] * 1000, ["a", "b", "c"] * 100
    mine, tests = partition(train, test, 4, scheme="dirichlet", alpha=0.3, seed=5)
    for rows, held in zip(mine, tests, strict=True):
        for label in "abc":
            of_train = sum(train[i] == label for i in rows) / 1000
            of_test = sum(test[i] == label for i in held) / 100
            assert abs(of_train - of_test) <= 0.02  # both are rounded to whole rows


def test_alpha_and_seed_matter() -> None:
    labels = ["a", "b"] * 500

    def spread(alpha: float, seed: int) -> list[int]:
        mine, _ = partition(labels, labels, 3, scheme="dirichlet", alpha=alpha, seed=seed)
        return [sum(labels[i] == "a" for i in rows) for rows in mine]

    assert spread(0.3, 1) != spread(0.3, 2)
    assert all(abs(n - 500 / 3) < 25 for n in spread(1000.0, 1))


def test_pinned_draw() -> None:
    """Another numpy must not deal other rows: sites draw in processes of their own."""
    labels = list("abcabcabcabc")
    mine, tests = partition(labels, labels, 2, scheme="dirichlet", alpha=0.5, seed=0)
    assert [rows.tolist() for rows in mine] == PINNED_TRAIN
    assert [rows.tolist() for rows in tests] == PINNED_TEST


def test_whole_classes() -> None:
    train, test = list("bbaaccdd"), list("abcd")
    mine, tests = partition(train, test, 3, scheme="label", alpha=1, seed=0)
    assert [{train[i] for i in rows} for rows in mine] == [{"a", "d"}, {"b"}, {"c"}]
    assert [{test[i] for i in rows} for rows in tests] == [{"a", "d"}, {"b"}, {"c"}]


def test_impossible_splits() -> None:
    with pytest.raises(DataError, match="2 training rows cannot be dealt out to 3 sites"):
        partition(["a", "b"], ["a"] * 9, 3, scheme="dirichlet", alpha=1, seed=0)
    with pytest.raises(DataError, match="1 test rows") as caught:
        partition(["a", "b"], ["a"], 2, scheme="dirichlet", alpha=1, seed=0)
    assert "max_test_rows" in caught.value.hint
    with pytest.raises(DataError, match="2 classes dealt out whole"):
        partition(["a", "b"] * 9, ["a", "b"] * 9, 3, scheme="label", alpha=1, seed=0)
    with pytest.raises(DataError, match="no draw of 1000"):
        partition(["a"] * 9, ["b"] * 9, 9, scheme="dirichlet", alpha=1e-6, seed=0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(0, 500))
def test_apportion_against_fractions(weights: list[int], total: int) -> None:
    assume(sum(weights))
    counts = apportion(np.array(weights, dtype=np.float64), total)
    assert counts.sum() == total
    for weight, count in zip(weights, counts.tolist(), strict=True):
        assert abs(Fraction(weight * total, sum(weights)) - count) < 1


@settings(deadline=None)
@given(LABELS, st.integers(1, 70), st.integers(0, 3))
def test_subsample_keeps_proportions(labels: list[str], limit: int, seed: int) -> None:
    kept = subsample(labels, limit, seed, "test").tolist()
    assert len(kept) == min(limit, len(labels))
    assert kept == sorted(set(kept))
    everything, picked = Counter(labels), Counter(labels[i] for i in kept)
    for label, count in everything.items():
        assert abs(picked[label] - count * len(kept) / len(labels)) < 1
    assert kept == subsample(labels, limit, seed, "test").tolist()
    assert subsample(labels, None, seed, "test").tolist() == list(range(len(labels)))
