"""Check vectors over a prime: exact, uniform, and as blind to lies as the proof says."""

from __future__ import annotations

import secrets

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from sealtune.offload.prime_check import PRIME, CheckVectors, VectorMaker, count, sums

SMALL = 13


def made(weight: torch.Tensor, bits: int, prime: int = PRIME, step: int = 5) -> VectorMaker:
    """Vectors of int8 [N, K], which comes in pieces of ``step`` rows."""
    maker = VectorMaker(*weight.shape, bits, prime)
    for start in range(0, len(weight), step):
        maker.add(start, weight[start : start + step].to(torch.float64))
    return maker


def accepts(x: torch.Tensor, y: torch.Tensor, check: CheckVectors, prime: int = PRIME) -> bool:
    return torch.equal(sums(x, check.right, prime), sums(y, check.left, prime))


def example(seed: int, outer: int, inner: int, backward: bool) -> tuple[torch.Tensor, ...]:
    """An int8 weight, codes as large as a budget lets them be, and their exact product."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-128, 128, (outer, inner), generator=generator).to(torch.int8)
    matrix = weight if backward else weight.t()
    limit = 2**30 // (128 * matrix.shape[0])
    x = torch.randint(-limit, limit + 1, (7, matrix.shape[0]), generator=generator)
    y = x @ matrix.to(torch.int64)
    assert y.abs().max() < 2**30
    return weight, x.to(torch.int32), y.to(torch.int32)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(1, 41)
)
def test_honest_products_pass(seed: int, outer: int, inner: int, backward: bool, step: int) -> None:
    weight, x, y = example(seed, outer, inner, backward)
    assert accepts(x, y, made(weight, 40, step=step).vectors(backward=backward))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 6),
    st.integers(0, 11),
    st.integers(1, 2**31 - 2),
    st.booleans(),
    st.booleans(),
)
def test_one_changed_entry_is_caught(
    seed: int, row: int, col: int, error: int, everywhere: bool, backward: bool
) -> None:
    """Of any size that a range check lets pass: results in (-2^30, 2^30) differ by less than p."""
    weight, x, y = example(seed, *((12, 33)[::-1] if backward else (12, 33)), backward)
    lie = y.to(torch.int64)
    if everywhere:
        lie += error
    else:
        lie[row, col] += error
    vectors = made(weight, 40).vectors(backward=backward)
    assert (sums(lie, vectors.left) != sums(x, vectors.right)).any(1)[row]


@pytest.mark.parametrize("lie", [[1, 0, 0], [-1, 2, 5], [2**31 - 2, 0, 0], [0, 2**30, -(2**30)]])
def test_a_lie_passes_one_vector_as_often_as_the_bound_says(lie: list[int]) -> None:
    """On a prime small enough to see it: 1 / 13 for one vector, 1 / 169 for two."""
    assert any(entry % SMALL for entry in lie)
    weight = torch.tensor([[3, -4], [127, 0], [-128, 9]], dtype=torch.int8)
    x = torch.tensor([[5, -7]], dtype=torch.int32)
    y = x.to(torch.int64) @ weight.t().to(torch.int64)
    for bits, vectors in ((3, 1), (7, 2)):
        assert count(bits, SMALL) == vectors
        trials, missed = 3000, 0
        for _ in range(trials):
            check = made(weight, bits, SMALL).vectors(backward=False)
            assert accepts(x, y, check, SMALL)
            missed += accepts(x, y + torch.tensor([lie]), check, SMALL)
        assert binomtest(missed, trials, SMALL**-vectors).pvalue > 1e-6


def test_an_adaptive_liar_gains_nothing_from_calls_that_passed() -> None:
    """Whatever honest calls came before, over the same vectors: the first lie passes 1 in 13."""
    weight = torch.tensor([[3, -4], [127, 0]], dtype=torch.int8)
    generator = torch.Generator().manual_seed(0)
    trials, missed = 3000, 0
    for _ in range(trials):
        check = made(weight, 3, SMALL).vectors(backward=False)
        error = torch.zeros((1, 2), dtype=torch.int64)
        for _ in range(3):  # its lie is made of all that it saw before
            x = torch.randint(-99, 100, (1, 2), generator=generator)
            y = x @ weight.t().to(torch.int64)
            assert accepts(x, y, check, SMALL)
            error += y
        error[0, 0] += int(not (error % SMALL).any())
        missed += accepts(x, y + error, check, SMALL)
    assert binomtest(missed, trials, 1 / SMALL).pvalue > 1e-6


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("inner", [2**15 - 1, 2**15, 2**15 + 1, 2**17 + 3])
@pytest.mark.parametrize(("secret", "entry"), [(PRIME - 1, -128), (PRIME - 2, -127)])
def test_extreme_weights_are_summed_exactly(
    inner: int, backward: bool, secret: int, entry: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest vectors and weights, as long as float64 is asked to add up and longer.

    Odd ones, too: beyond 2^53 float64 holds even numbers only.
    """
    drawn = secret.to_bytes(4, "little")
    monkeypatch.setattr(secrets, "token_bytes", lambda size: drawn * (size // 4))
    weight = torch.full((2, inner) if not backward else (inner, 2), entry, dtype=torch.int8)
    found = made(weight, 40, step=2**17 if backward else 1).vectors(backward=not backward)
    assert found.left.eq(secret).all()  # the long side is summed over
    assert found.right.to(torch.int64).eq(secret * entry * inner % PRIME).all()


def test_sums_are_those_of_python_integers() -> None:
    values = [[2**31 - 1, -(2**31), 0, 1], [-1, 7, 2**30 - 1, -(2**30)]]
    vectors = [[PRIME - 1, PRIME - 1, 5, 0], [1, PRIME - 2, PRIME - 1, PRIME - 1]]
    found = sums(torch.tensor(values, dtype=torch.int32), torch.tensor(vectors, dtype=torch.uint32))
    assert found.tolist() == [
        [sum(v * s for v, s in zip(row, vector, strict=True)) % PRIME for vector in vectors]
        for row in values
    ]


@pytest.mark.parametrize(
    ("bits", "vectors"), [(1, 1), (30, 1), (31, 2), (40, 2), (61, 2), (62, 3), (93, 4), (128, 5)]
)
def test_a_bound_has_as_many_vectors_as_it_needs(bits: int, vectors: int) -> None:
    """1 / p is a little more than 2^-31, so 31 bits take a second vector."""
    assert count(bits) == vectors
    check = made(torch.ones((3, 4), dtype=torch.int8), bits).vectors(backward=False)
    assert (check.left.shape, check.right.shape) == ((vectors, 3), (vectors, 4))
    assert check.left.dtype == check.right.dtype == torch.uint32


def test_secret_vectors_are_uniform_below_the_prime(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = made(torch.zeros((4000, 1), dtype=torch.int8), 5, SMALL)
    values = maker.vectors(backward=False).left.to(torch.int64).flatten()
    counts = torch.bincount(values, minlength=SMALL)
    assert len(counts) == SMALL
    assert chisquare(counts.numpy()).pvalue > 1e-6
    drawn = iter([b"\xff\xff\xff\x7f" * 2, b"\x01\0\0\0" * 2])  # p itself is 0: it is drawn anew
    monkeypatch.setattr(secrets, "token_bytes", lambda size: next(drawn, b"\x02\0\0\0" * 9)[:size])
    again = VectorMaker(2, 1, 5).vectors(backward=False)
    assert again.left.tolist() == [[1, 1]]


def test_no_two_layers_or_directions_share_a_vector() -> None:
    weight = torch.ones((4, 4), dtype=torch.int8)
    found = [made(weight, 40).vectors(backward=way) for way in (False, True) for _ in range(2)]
    rows = {tuple(row) for check in found for row in check.left.tolist()}
    assert len(rows) == 8
