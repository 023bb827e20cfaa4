"""Exact products: each way against Python's integers, the proof, and what cuBLAS is given."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import OffloadError
from sealtune.native import library
from sealtune.offload import kernels, ring
from tests.offload.integers import multiply, random_codes

CPU = torch.device("cpu")
NOT_SUPPORTED = "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul"


@pytest.fixture(autouse=True)
def _proven_anew() -> Iterator[None]:
    """As without the library, where a test does not say otherwise."""
    kernels._proven.cache_clear()
    with library.using(library.OFF):
        yield
    kernels._proven.cache_clear()


def saturating(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """int8 product as AVX2 computes it: u8 x s8, neighbours added in 16 bits with saturation."""
    a = left.to(torch.int64) + 128
    b = right.to(torch.int64)
    pairs = a[:, 0::2, None] * b[None, 0::2]
    odd = a[:, 1::2, None] * b[None, 1::2]
    pairs[:, : odd.shape[1]] += odd
    sums = pairs.clamp(-(2**15), 2**15 - 1).sum(1) - 128 * b.sum(0)
    return sums.to(torch.int32)


def saturating_bytes(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Ring product by unsigned bytes of codes, each pair of products saturating in 16 bits."""
    digits = codes.contiguous().view(torch.uint8).view(*codes.shape, 4).to(torch.int64)
    total = torch.zeros((codes.shape[0], weight.shape[1]), dtype=torch.int64)
    for digit in range(4):
        pairs = digits[:, 0::2, None, digit] * weight.to(torch.int64)[None, 0::2]
        odd = digits[:, 1::2, None, digit] * weight.to(torch.int64)[None, 1::2]
        pairs[:, : odd.shape[1]] += odd
        total += pairs.clamp(-(2**15), 2**15 - 1).sum(1) << (8 * digit)
    return total.to(torch.int32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_float64_products_equal_python_integers(
    rows: int, inner: int, cols: int, seed: int, transposed: bool
) -> None:
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, rows, inner)
    weight = torch.from_numpy(rng.integers(-128, 128, (inner, cols), dtype=np.int8))
    if transposed:
        weight = weight.t().contiguous().t()
    assert kernels.float64_matmul(codes, weight).tolist() == multiply(codes, weight)
    # the other way round, as sums of rows are made
    turned = kernels.float64_matmul(weight.t(), codes.t())
    assert torch.equal(turned.t(), kernels.float64_matmul(codes, weight))


def layouts(matrix: torch.Tensor) -> Iterator[torch.Tensor]:
    """The same matrix in every way that it may lie in memory."""
    rows, cols = matrix.shape
    yield matrix
    yield matrix.t().contiguous().t()
    yield torch.cat([matrix, matrix], dim=1)[:, :cols]
    yield torch.cat([matrix, matrix]).t().contiguous().t()[:rows]
    if rows == 1:
        yield matrix.as_strided((1, cols), (1, 1))
        yield matrix.as_strided((1, cols), (99, 1))
    if cols == 1:
        yield matrix.as_strided((rows, 1), (1, 99))


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("inner", [1, 2, 64, 1000])
@pytest.mark.parametrize("cols", [1, 2, 4, 33])
def test_no_layout_of_the_operands_changes_a_product(rows: int, inner: int, cols: int) -> None:
    """Of a single row PyTorch's int8 product took strides for true, and read beyond it."""
    generator = torch.Generator().manual_seed(1)
    left = torch.randint(-40, 40, (rows, inner), generator=generator).to(torch.int8)
    right = torch.randint(-40, 40, (inner, cols), generator=generator).to(torch.int8)
    expected = left.to(torch.int64) @ right.to(torch.int64)
    for one, two in itertools.product(layouts(left), layouts(right)):
        for matmul in (kernels.int8_matmul, kernels.float64_matmul):
            assert torch.equal(matmul(one, two), expected), (one.stride(), two.stride())


@pytest.mark.parametrize("inner", [2**15, 2**15 + 1, ring.MAX_INNER])
@pytest.mark.parametrize("code", [-(2**31), 2**31 - 1])
@pytest.mark.parametrize("digit", [-128, 127])
def test_float64_is_exact_at_its_very_edge(inner: int, code: int, digit: int) -> None:
    codes = torch.full((2, inner), code, dtype=torch.int32)
    codes[1, -1] = 1
    weight = torch.full((inner, 3), digit, dtype=torch.int8)
    assert kernels.float64_matmul(codes, weight)[:, 0].tolist() == [
        row[0] for row in multiply(codes, weight[:, :1])
    ]


def test_blocks_of_columns_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_BLOCK", 100)
    monkeypatch.setattr(kernels, "_FLOAT64_INNER", 20)
    rng = np.random.default_rng(3)
    codes = random_codes(rng, 3, 50)
    weight = torch.from_numpy(rng.integers(-128, 128, (50, 17), dtype=np.int8))
    assert kernels.float64_matmul(codes, weight).tolist() == multiply(codes, weight)


def test_a_longer_weight_is_refused_by_either_way() -> None:
    codes, weight = torch.ones((2, 8), dtype=torch.int32), torch.ones((10, 3), dtype=torch.int8)
    with pytest.raises(ValueError, match="8 columns"):
        kernels.float64_matmul(codes, weight)
    with pytest.raises((ValueError, RuntimeError)):
        ring.product(codes, weight)


def test_products_that_saturate_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", saturating)
    codes = random_codes(np.random.default_rng(1), 5, 40)
    weight = torch.full((40, 6), 127, dtype=torch.int8)
    planes = ring.recombine(saturating(ring.split_digits(codes), weight).view(4, 5, 6))
    assert planes.tolist() != multiply(codes, weight)
    assert kernels.arithmetic(CPU) == "float64"
    assert ring.product(codes, weight).tolist() == multiply(codes, weight)


needs_the_library = pytest.mark.skipif(
    library.available() == (library.OFF,), reason="the library was not built"
)


def proven_with_the_library() -> str:
    with library.using(library.available()[-1]):
        return kernels.arithmetic(CPU)


@needs_the_library
def test_the_library_comes_first_where_it_is_exact() -> None:
    assert proven_with_the_library() == "native"


@needs_the_library
@pytest.mark.parametrize("flaw", ["saturates", "one layout", "long sums saturate", "refuses"])
def test_a_library_that_is_wrong_somewhere_is_not_used(
    monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    true = kernels.native_matmul

    def flawed(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if flaw == "refuses":
            raise NotImplementedError
        if flaw == "saturates":
            return saturating_bytes(codes, weight)
        found = true(codes, weight)
        if flaw == "one layout" and weight.stride(0) == 1:
            found[-1, -1] += 1
        if flaw == "long sums saturate" and codes.shape[1] > 2**16:
            found.fill_(2**31 - 1)
        return found

    monkeypatch.setattr(kernels, "native_matmul", flawed)
    assert proven_with_the_library() in ("int8", "float64")


@needs_the_library
def test_a_library_without_instructions_may_be_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    true = kernels.native_matmul

    def slow(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return true(codes, weight)

    monkeypatch.setattr(kernels, "native_matmul", slow)
    with library.using("plain"):
        assert kernels.arithmetic(CPU) != "native"


@pytest.mark.parametrize("flaw", ["rows", "columns", "backward", "one sign"])
def test_every_flaw_that_shows_somewhere_is_found(
    monkeypatch: pytest.MonkeyPatch, flaw: str
) -> None:
    """A kernel that saturates for some shapes, one layout of the weight, or one sign only."""
    true = torch._int_mm

    def flawed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        hit = {
            "rows": left.shape[0] > 100,
            "columns": right.shape[1] % 2 == 1,
            "backward": right.is_contiguous(),
            "one sign": bool((left == -128).all() and (right == 127).all()),
        }
        found = true(left, right)
        return found.clamp(-(2**20), 2**20) if hit[flaw] else found

    monkeypatch.setattr(torch, "_int_mm", flawed)
    assert kernels.arithmetic(CPU) == "float64"


def test_a_processor_without_int8_products_uses_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented")

    monkeypatch.setattr(torch, "_int_mm", missing)
    assert kernels.arithmetic(CPU) == "float64"


def test_a_slow_int8_product_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch._int_mm

    def slow(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return true(left, right)

    monkeypatch.setattr(torch, "_int_mm", slow)
    assert kernels.arithmetic(CPU) == "float64"


def test_a_processor_that_is_exact_in_no_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.float() @ right.float()).double().to(torch.int64).to(torch.int32)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    monkeypatch.setattr(kernels, "float64_matmul", rounded)
    with pytest.raises(OffloadError, match="does not multiply integers exactly"):
        kernels.arithmetic(CPU)


def as_cublas(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``torch._int_mm`` on CUDA, as far as what it refuses goes."""
    rows, inner = left.shape
    cols = right.shape[1]
    if rows <= 16 or not inner or inner % 8 or not cols or cols % 8:
        raise RuntimeError("self.size(0) needs to be greater than 16, sizes multiples of 8")
    if not left.is_contiguous() or right.stride() != (1, inner):
        raise RuntimeError(NOT_SUPPORTED)
    if left.data_ptr() % 4 or right.data_ptr() % 4:
        raise RuntimeError(NOT_SUPPORTED)
    return (left.to(torch.int64) @ right.to(torch.int64)).to(torch.int32)


CUDA_SHAPES = list(
    itertools.product(
        (1, 4, 16, 17, 20, 64), ((64, 64), (576, 960), (33, 7), (100, 36)), ("plain", "turned")
    )
)


@pytest.mark.parametrize(("rows", "sizes", "layout"), CUDA_SHAPES)
@pytest.mark.parametrize("view", [False, True])
def test_cublas_gets_every_shape_in_the_form_that_it_takes(
    monkeypatch: pytest.MonkeyPatch, rows: int, sizes: tuple[int, int], layout: str, view: bool
) -> None:
    """No GPU is needed: the stand-in refuses what the library refuses."""
    monkeypatch.setattr(torch, "_int_mm", as_cublas)
    inner, cols = sizes
    generator = torch.Generator().manual_seed(rows + inner)

    def digits(*shape: int) -> torch.Tensor:
        return torch.randint(-128, 128, shape, generator=generator).to(torch.int8)

    left = digits(inner, rows).t() if view else digits(rows, inner)
    right = digits(cols, inner).t() if layout == "turned" else digits(inner, cols)
    found = kernels.cublas_matmul(left, right)
    assert found.is_contiguous()
    assert torch.equal(found, (left.to(torch.int64) @ right.to(torch.int64)).to(torch.int32))


def test_two_hundred_ring_products_need_nothing_that_cublas_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CUDA: few rows, odd sizes, both layouts, codes that are no matrix of their own."""

    def never(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a shape was refused, and multiplied in float64")

    monkeypatch.setattr(torch, "_int_mm", as_cublas)
    monkeypatch.setattr(kernels, "_int8_kernel", kernels.cublas_matmul)
    monkeypatch.setattr(kernels, "float64_matmul", never)
    monkeypatch.setattr(kernels, "arithmetic", lambda _device: "int8")
    rng = np.random.default_rng(7)
    sizes = (1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 129)
    for number in range(200):
        rows, inner, cols = (int(rng.choice(sizes)) for _ in range(3))
        codes = random_codes(rng, rows, inner + 3)[:, 1 : 1 + inner]
        weight = torch.from_numpy(rng.integers(-128, 128, (inner, cols), dtype=np.int8))
        if number % 2:
            weight = weight.t().contiguous().t()
        found = ring.product(codes, weight)
        expected = (codes.to(torch.int64) @ weight.to(torch.int64)).to(torch.int32)
        assert torch.equal(found, expected), (rows, inner, cols, number)


@pytest.mark.parametrize("layout", ["plain", "turned"])
def test_a_weight_that_is_laid_out_is_the_same_and_needs_no_copy(layout: str) -> None:
    weight = torch.randint(-128, 128, (32, 48)).to(torch.int8)
    weight = weight.t().contiguous().t() if layout == "turned" else weight
    found = kernels._column_major(weight)
    assert torch.equal(found, weight)
    assert found.t().contiguous().data_ptr() == found.data_ptr()
    assert kernels.laid_out(weight) is weight  # the processor takes either


def test_a_shape_that_a_library_refuses_is_multiplied_in_float64(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.shape[0] == 12:
            raise RuntimeError(NOT_SUPPORTED)
        return true(left, right)

    true = torch._int_mm
    codes = random_codes(np.random.default_rng(1), 3, 40)
    weight = torch.full((40, 6), -128, dtype=torch.int8)
    monkeypatch.setattr(kernels, "arithmetic", lambda _device: "int8")
    if kernels._is_exact(true, CPU, torch.int8):
        monkeypatch.setattr(torch, "_int_mm", refuses)
        assert ring.product(codes, weight).tolist() == multiply(codes, weight)
    left = torch.full((12, 40), 127, dtype=torch.int8)
    monkeypatch.setattr(torch, "_int_mm", refuses)
    assert (kernels.int8_matmul(left, weight) == 40 * 127 * -128).all()


def test_memory_that_ran_out_is_not_taken_for_a_missing_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "_int_mm", full)
    digits = torch.ones((2, 2), dtype=torch.int8)
    with pytest.raises(torch.OutOfMemoryError):
        kernels.int8_matmul(digits, digits)
    with pytest.raises(torch.OutOfMemoryError):
        kernels.arithmetic(CPU)
