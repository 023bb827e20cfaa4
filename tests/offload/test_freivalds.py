"""A lying accelerator is caught, whatever it changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import IntegrityError, RingBudgetError
from sealtune.offload import freivalds, ring
from sealtune.offload.codes import RESULT_LIMIT


def example(seed: int, rows: int = 7, inner: int = 33, cols: int = 12) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-(2**31), 2**31, (rows, inner), generator=generator).to(torch.int32)
    weight = torch.randint(-127, 128, (inner, cols), generator=generator).to(torch.int8)
    return x, weight, ring.product(x, weight)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_honest_products_pass(seed: int, rows: int, inner: int, cols: int) -> None:
    x, weight, y = example(seed, rows, inner, cols)
    freivalds.check_product(x, y, weight, bits=40, where="layer")
    assert torch.equal(y, ring.product(x, weight))


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**31), st.integers(0, 6), st.integers(0, 11), st.integers(0, 30), st.booleans()
)
def test_one_changed_entry_is_caught(
    seed: int, row: int, col: int, bit: int, everywhere: bool
) -> None:
    x, weight, y = example(seed)
    lie = y.clone()
    if everywhere:
        lie += 1 << bit
    else:
        lie[row, col] += 1 << bit
    with pytest.raises(IntegrityError, match="layer"):
        freivalds.check_product(x, lie, weight, bits=40, where="layer")


def test_the_top_bit_is_what_the_range_check_is_for() -> None:
    """An error of 2^31 survives half of the ring checks, so it must never get that far."""
    result = torch.tensor([[RESULT_LIMIT - 1, -(RESULT_LIMIT - 1), 0]], dtype=torch.int32)
    freivalds.check_range(result, "layer")
    for column in range(3):
        lie = result.clone()
        lie[0, column] ^= -(2**31)
        with pytest.raises(IntegrityError, match="out of range"):
            freivalds.check_range(lie, "layer")


def test_one_check_misses_as_often_as_the_bound_says() -> None:
    """bits = 2 is one check; the hardest remaining error (2^30) must slip by about 1 in 4 times."""
    x, weight, y = example(1)
    lie = y.clone()
    lie[2, 3] += 2**30
    missed = 0
    for _ in range(400):
        try:
            freivalds.check_product(x, lie, weight, bits=2, where="layer")
            missed += 1
        except IntegrityError:
            pass
    assert 60 <= missed <= 140


def test_more_rows_than_a_check_can_add_up_are_refused() -> None:
    x = torch.ones((ring.MAX_INNER + 1, 1), dtype=torch.int32)
    weight = torch.full((1, 1), 3, dtype=torch.int8)
    freivalds.check_product(x[1:], 3 * x[1:], weight, bits=2, where="layer")
    with pytest.raises(RingBudgetError, match="131072 token rows in one call are more than"):
        freivalds.check_product(x, 3 * x, weight, bits=2, where="layer")
