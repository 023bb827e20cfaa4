"""The budget: no input, however hostile, makes a product leave the ring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import OffloadError
from sealtune.offload.codes import RESULT_LIMIT, Budget
from tests.offload.integers import encoded


def norm_of(weight: np.ndarray) -> float:
    return float(np.sqrt((weight.astype(np.float64) ** 2).sum(1).max()))


@settings(max_examples=150, deadline=None)
@given(
    inner=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["aligned", "spike", "random", "constant", "tiny", "huge"]),
    extreme=st.booleans(),
)
def test_adversarial_rows_never_overflow(inner: int, seed: int, kind: str, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.choice([-127, 127], (4, inner)) if extreme else rng.integers(-127, 128, (4, inner))
    x = {
        "aligned": weight[:2].astype(np.float32) * rng.choice([1e-6, 1.0, 1e6]),
        "spike": np.eye(2, inner, dtype=np.float32) * 1e4,
        "random": rng.standard_normal((2, inner)).astype(np.float32),
        "constant": np.full((2, inner), rng.standard_normal(), dtype=np.float32),
        "tiny": np.full((2, inner), 1e-19, dtype=np.float32),
        "huge": np.full((2, inner), 1e18, dtype=np.float32),
    }[kind]
    codes, step = encoded(torch.from_numpy(x), Budget(norm_of(weight), inner))
    exact = codes.numpy().astype(object) @ weight.astype(object).T
    assert max(abs(v) for v in exact.ravel()) < RESULT_LIMIT
    assert torch.isfinite(codes * step).all()


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_rounding_error_is_half_a_step(inner: int, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, inner), dtype=np.float32))
    codes, step = encoded(x, Budget(2000.0, inner))
    error = (codes.double() * step.double() - x.double()).abs()
    assert (error <= 0.5001 * step.double() + 1e-6 * x.abs()).all()


def test_zero_rows_stay_zero() -> None:
    codes, step = encoded(torch.zeros((2, 8)), Budget(100.0, 8))
    assert not codes.any()
    assert torch.equal(codes * step, torch.zeros((2, 8)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.ones((2, 8))
    x[1, 3] = bad
    with pytest.raises(OffloadError, match="NaN or infinity"):
        encoded(x, Budget(100.0, 8))


def test_a_matrix_that_leaves_too_few_bits_is_refused() -> None:
    with pytest.raises(OffloadError, match="fewer than 8 bits"):
        Budget(127.0 * 4096, 4096)


def test_the_budget_ends_at_eight_bits() -> None:
    limit = (1 - 2**-14) * RESULT_LIMIT / (2**8 * 8 + 4)  # 64 columns: a norm of 8 steps each
    assert Budget(limit * 0.999, 64).code_norm == pytest.approx(2**8 * 8, rel=2e-3)
    with pytest.raises(OffloadError, match="fewer than 8 bits"):
        Budget(limit * 1.001, 64)


@pytest.mark.parametrize("norm", [0.0, 0.5, 1.0])
def test_small_matrices_get_the_budget_of_norm_one(norm: float) -> None:
    assert Budget(norm, 4).code_norm == 2**30 - 2**16 - 1
