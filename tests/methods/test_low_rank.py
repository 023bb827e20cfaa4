"""Means of products against the means that they stand for, made whole in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sealtune.methods.federated.low_rank import Factors, Losses, mean_product

N, K = 24, 40


def site(numbers: np.random.Generator, weight: float, rank: int, n: int = N, k: int = K) -> Factors:
    return Factors(weight, numbers.standard_normal((n, rank)), numbers.standard_normal((rank, k)))


def whole(sites: list[Factors]) -> NDArray[np.float64]:
    return sum(
        (s.weight * s.b @ s.a for s in sites),
        start=np.zeros((sites[0].b.shape[0], sites[0].a.shape[1])),
    )


def spare(rank: int, k: int = K) -> NDArray[np.float32]:
    return np.random.default_rng(9).standard_normal((rank, k), dtype=np.float32)


def product(b: NDArray[np.floating], a: NDArray[np.floating]) -> NDArray[np.float64]:
    return b.astype(np.float64) @ a.astype(np.float64)


def relative(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture
def numbers() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("ranks", [(1,), (2, 3), (4, 8, 16), (8, 8, 8), (30, 30)])
@pytest.mark.parametrize("shape", [(N, K), (K, N), (5, 7)])
def test_it_is_the_mean_when_the_rank_suffices(
    numbers: np.random.Generator, ranks: tuple[int, ...], shape: tuple[int, int]
) -> None:
    share = 1 / sum(range(1, len(ranks) + 1))
    sites = [site(numbers, (i + 1) * share, r, *shape) for i, r in enumerate(ranks)]
    b, a, losses = mean_product(sites, spare(sum(ranks), shape[1]))
    assert (b.shape, a.shape) == ((shape[0], sum(ranks)), (sum(ranks), shape[1]))
    assert relative(product(b, a), whole(sites)) < 1e-6
    assert losses.residual == 0.0


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_what_is_cut_is_the_least_and_as_much_as_it_says(
    numbers: np.random.Generator, rank: int
) -> None:
    sites = [site(numbers, 0.2, 4), site(numbers, 0.3, 8), site(numbers, 0.5, 16)]
    b, a, losses = mean_product(sites, spare(rank))
    values = np.linalg.svd(whole(sites), compute_uv=False)
    best = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
    assert losses.residual == pytest.approx(best, rel=1e-9)
    assert relative(product(b, a), whole(sites)) == pytest.approx(best, rel=1e-5)
    assert best > 0.1


def test_the_error_of_averaged_factors_is_what_it_says(numbers: np.random.Generator) -> None:
    sites = [site(numbers, 0.2, 4), site(numbers, 0.3, 8), site(numbers, 0.5, 16)]
    b = sum(np.pad(s.weight * s.b, ((0, 0), (0, 16 - s.b.shape[1]))) for s in sites)
    a = sum(np.pad(s.weight * s.a, ((0, 16 - s.a.shape[0]), (0, 0))) for s in sites)
    losses = mean_product(sites, spare(16))[2]
    assert losses.factor_error == pytest.approx(relative(b @ a, whole(sites)), rel=1e-9)
    assert losses.factor_error > 0.5


def test_of_equal_sites_averaging_factors_is_right_as_well(numbers: np.random.Generator) -> None:
    one = site(numbers, 0.5, 4)
    losses = mean_product([one, one], spare(4))[2]
    assert losses.factor_error < 1e-12
    assert losses.residual < 1e-12


def test_factors_are_balanced_sorted_and_of_one_sign(numbers: np.random.Generator) -> None:
    b, a, _ = mean_product([site(numbers, 0.5, 4), site(numbers, 0.5, 4)], spare(8))
    norms = np.linalg.norm(b.astype(float), axis=0), np.linalg.norm(a.astype(float), axis=1)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert (np.diff(norms[0]) <= 0).all()
    assert (b[np.abs(b).argmax(axis=0), np.arange(8)] > 0).all()


def test_the_first_directions_are_the_best_of_a_lower_rank(numbers: np.random.Generator) -> None:
    sites = [site(numbers, 0.5, 4), site(numbers, 0.5, 8)]
    b, a, _ = mean_product(sites, spare(12))
    b4, a4, _ = mean_product(sites, spare(4))
    assert relative(product(b[:, :4], a[:4]), product(b4, a4)) < 1e-5


def test_a_direction_without_content_stays_trainable() -> None:
    """B A of zero, as before the first step, and ranks that do not fill the job's."""
    numbers, kept = np.random.default_rng(3), spare(6)
    zero = Factors(0.5, np.zeros((N, 4)), kept[:4].astype(np.float64))
    b, a, losses = mean_product([zero, zero], kept)
    assert (losses.residual, losses.factor_error) == (0.0, 0.0)
    assert not b.any()
    assert np.array_equal(a, kept)
    one = site(numbers, 1.0, 2)
    b, a, _ = mean_product([one], kept)
    assert not b[:, 2:].any()
    assert np.array_equal(a[2:], kept[2:])
    assert relative(product(b, a), product(one.b, one.a)) < 1e-6


def test_nearly_equal_sites_lose_nothing(numbers: np.random.Generator) -> None:
    """The stack is nearly singular, as after a short round: no number blows up."""
    base = site(numbers, 0.5, 4)
    close = Factors(0.5, base.b * (1 + 1e-6), base.a + 1e-6)
    sites = [base, close]
    b, a, _ = mean_product(sites, spare(8))
    assert relative(product(b, a), whole(sites)) < 1e-6
    assert np.abs(b).max() < 1e3


def test_losses_of_layers_add_up() -> None:
    both = Losses(9.0, 1.0, 4.0) + Losses(7.0, 0.0, 0.0)
    assert (both.residual, both.factor_error) == (0.25, 0.5)
