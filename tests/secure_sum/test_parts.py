"""Ring, fixed-point numbers, graph and shares, each alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import FrameError, ModelError
from sealtune.secure_sum.graph import degree, neighbours
from sealtune.secure_sum.ring import FixedPoint, add_mask, from_bytes, to_bytes
from sealtune.secure_sum.terms import threshold

KEY = bytes(range(32))


@pytest.mark.parametrize("length", [0, 1, 7, 131_072, 131_073, 300_001])
def test_a_mask_comes_off_again(length: int) -> None:
    vector = np.arange(length, dtype=np.uint64)
    masked = vector.copy()
    add_mask(masked, KEY, 1)
    assert length == 0 or not np.array_equal(masked, vector)
    add_mask(masked, KEY, -1)
    assert np.array_equal(masked, vector)


def test_the_mask_is_the_key_stream_of_aes_256_in_counter_mode() -> None:
    """Against the cipher itself, block by block (NIST SP 800-38A, 6.5)."""
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    masked = np.zeros(6, np.uint64)
    add_mask(masked, KEY, 1)
    blocks = b"".join(number.to_bytes(16, "big") for number in range(3))
    assert to_bytes(masked) == Cipher(AES256(KEY), ECB()).encryptor().update(blocks)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(FrameError, match="24 bytes, not 16"):
        from_bytes(bytes(24), 2)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=5),
    weights=st.lists(st.integers(1, 2**29 - 1), min_size=5, max_size=5),
    limit=st.floats(1e-6, 1e6),
)
def test_a_weighted_mean_is_exact_to_half_a_step(
    values: list[float], weights: list[int], limit: float
) -> None:
    used = weights[: len(values)]
    fixed = FixedPoint(limit, sum(weights))
    scaled = [value * limit for value in values]
    total = np.zeros(1, np.uint64)
    for value, weight in zip(scaled, used, strict=True):
        total += fixed.encode([value], weight)
    mean = math.fsum(v * w for v, w in zip(scaled, used, strict=True)) / sum(used)
    assert abs(fixed.mean(total, sum(used))[0] - mean) <= fixed.step + abs(mean) * 2**-50


def test_the_step_is_far_below_what_float32_holds() -> None:
    fixed = FixedPoint(512 * 1e-3 * 30, 10_000)
    assert fixed.step < 2**-43
    value = np.float32(1.2345e-3)
    assert fixed.mean(fixed.encode(value[None], 3), 3)[0] == pytest.approx(float(value), rel=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.001, -1.001])
def test_what_does_not_fit_is_refused_and_not_cut_off(value: float) -> None:
    with pytest.raises(ModelError, match="not finite, or beyond 1"):
        FixedPoint(1.0, 10).encode([0.5, value], 1)


@given(count=st.integers(3, 64), even=st.integers(1, 40))
def test_neighbours_are_mutual_and_as_many_as_asked_for(count: int, even: int) -> None:
    sites = [f"site-{number}" for number in range(count)]
    near = neighbours(sites, b"seed", 2 * even)
    assert near.keys() == set(sites)
    for site, others in near.items():
        assert site not in others
        assert len(set(others)) == len(others) == min(2 * even, count - 1)
        assert all(site in near[other] for other in others)


def test_another_seed_gives_other_neighbours() -> None:
    sites = [f"site-{number}" for number in range(30)]
    assert neighbours(sites, b"a", 4) != neighbours(sites, b"b", 4)
    assert neighbours(sites, b"a", 4) == neighbours(reversed(sites), b"a", 4)


@pytest.mark.parametrize(("sites", "least"), [(3, 2), (5, 4), (48, 47), (64, 50), (1000, 100)])
def test_few_sites_are_all_neighbours_and_many_are_not(sites: int, least: int) -> None:
    chosen = degree(sites)
    assert chosen >= least
    assert chosen % 2 == 0
    if sites == 1000:
        assert chosen < 400


@pytest.mark.parametrize(("holders", "needed"), [(3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (64, 43)])
def test_thresholds(holders: int, needed: int) -> None:
    assert threshold(holders) == needed
    # two lists of survivors have more than a third in common
    assert 2 * needed - holders > holders / 3 - 1
