"""Ring arithmetic against Python's unbounded integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.offload import kernels, ring
from tests.offload.integers import multiply, random_codes, wrap

INT32 = st.integers(-(2**31), 2**31 - 1)
SHAPE = st.integers(1, 9)


@given(st.lists(INT32, min_size=1, max_size=50))
def test_digits_are_balanced_and_recombine(values: list[int]) -> None:
    codes = torch.tensor([values], dtype=torch.int32)
    planes = ring.split_digits(codes).view(4, 1, len(values))
    for column, value in enumerate(values):
        digits = [int(planes[d, 0, column]) for d in range(4)]
        assert all(-128 <= d <= 127 for d in digits)
        assert wrap(sum(d * 256**i for i, d in enumerate(digits))) == value
    assert torch.equal(ring.recombine(planes.to(torch.int32)), codes)


@given(st.lists(INT32, min_size=1, max_size=50))
def test_balanced_bytes_are_the_digit_planes(values: list[int]) -> None:
    codes = torch.tensor([values], dtype=torch.int32)
    side_by_side = ring.balance(codes).view(torch.int8).view(len(values), 4)
    planes = ring.split_digits(codes).view(4, len(values))
    assert torch.equal(side_by_side.t(), planes)


@settings(max_examples=60, deadline=None)
@given(SHAPE, st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans())
def test_product_equals_python_integers(
    rows: int, inner: int, cols: int, seed: int, transposed: bool
) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, rows, inner)
    weight = torch.from_numpy(rng.integers(-128, 128, (inner, cols), dtype=np.int8))
    given_weight = weight.t().contiguous().t() if transposed else weight
    assert ring.product(codes, given_weight).tolist() == multiply(codes, weight)


def test_product_is_exact_for_the_worst_case_of_real_layers() -> None:
    codes = torch.full((3, 8192), -(2**31) + 0x7F7F7F7F, dtype=torch.int32)
    weight = torch.full((8192, 5), -128, dtype=torch.int8)
    expected = wrap(8192 * int(codes[0, 0]) * -128)
    assert torch.equal(ring.product(codes, weight), torch.full((3, 5), expected, dtype=torch.int32))


@pytest.mark.parametrize("way", ["native", "int8", "float64"])
@pytest.mark.parametrize("inner", [ring.MAX_INNER, ring.MAX_INNER + 1, 2 * ring.MAX_INNER + 5])
def test_an_inner_dimension_of_any_length_is_exact(
    monkeypatch: pytest.MonkeyPatch, way: str, inner: int
) -> None:
    assert ring.MAX_INNER == 131_071  # one more, and 128 * 128 * K would be 2^31
    device = torch.device("cpu")
    if not is_exact(way):
        pytest.skip(f"{way} is not exact here")
    monkeypatch.setattr(kernels, "arithmetic", lambda _device: way)
    assert kernels.arithmetic(device) == way
    codes = torch.full((1, inner), 0x7F7F7F80, dtype=torch.int32)  # digits of -128
    weight = torch.full((inner, 1), -128, dtype=torch.int8)
    expected = wrap(inner * 0x7F7F7F80 * -128)
    assert ring.product(codes, weight).tolist() == [[expected]]


def is_exact(way: str) -> bool:
    """Whether this processor, with the settings of this run, multiplies so."""
    matmul, left = {
        "native": (kernels.native_matmul, torch.int32),
        "int8": (kernels._int8_kernel, torch.int8),
        "float64": (kernels.float64_matmul, torch.int32),
    }[way]
    return kernels._is_exact(matmul, torch.device("cpu"), left)


@pytest.mark.parametrize("way", ["native", "int8", "float64"])
def test_a_result_goes_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if not is_exact(way):
        pytest.skip(f"{way} is not exact here")
    monkeypatch.setattr(kernels, "arithmetic", lambda _device: way)
    rng = np.random.default_rng(5)
    codes = random_codes(rng, 7, 30)
    weight = torch.from_numpy(rng.integers(-128, 128, (30, 50), dtype=np.int8))
    room = torch.zeros((7, 60), dtype=torch.int32)
    found = ring.product(codes, weight, room[:, 4:54])
    assert found.data_ptr() == room[:, 4:].data_ptr()
    assert found.tolist() == multiply(codes, weight)
    assert not room[:, :4].any()
    assert not room[:, 54:].any()
