"""The library's ring product, with every instruction set of this processor, against integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sealtune.native import library
from sealtune.offload import kernels
from tests.offload.integers import EDGES, multiply, random_codes

SETS = [name for name in library.available() if name != library.OFF]
pytestmark = pytest.mark.skipif(not SETS, reason=f"no library: {library.why_off()}")
# around the sizes of blocks (16, 24, 48 columns; 2, 16 rows), of groups (4, 64) and of pieces (640)
AROUND = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 47, 48, 49, 63, 64, 65, 127, 130)


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    with library.using(request.param):
        yield request.param


def integers(codes: Tensor, weight: Tensor) -> Tensor:
    """``codes @ weight`` mod 2^32 by 64-bit integers, which wrap."""
    wide = codes.numpy().astype(np.int64) @ weight.numpy().astype(np.int64)
    return torch.from_numpy(wide.astype(np.int32))


def weights(rng: np.random.Generator, inner: int, cols: int, layout: str) -> Tensor:
    """int8 [inner, cols], a quarter of it at the extremes, in one of the ways it may lie."""
    values = rng.integers(-128, 128, (inner, cols), dtype=np.int8)
    where = rng.random((inner, cols)) < 0.25
    values[where] = rng.choice((-128, 127), where.sum())
    weight = torch.from_numpy(values)
    if layout == "turned":
        return weight.t().contiguous().t()
    if layout == "part":  # of a wider matrix
        return torch.cat([weight, weight], dim=1)[:, cols:]
    if layout == "turned part":
        return torch.cat([weight, weight]).t().contiguous().t()[inner:]
    if layout == "scattered":  # no stride is 1
        return torch.stack([weight, weight], dim=2).contiguous()[:, :, 1]
    return weight


LAYOUTS = ("plain", "turned", "part", "turned part", "scattered")
SIZES = st.one_of(st.sampled_from(AROUND), st.integers(1, 140))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_shape_equals_integers(instructions: str, layout: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(SIZES, SIZES, SIZES, st.integers(0, 2**32 - 1), st.booleans())
    def holds(rows: int, inner: int, cols: int, seed: int, apart: bool) -> None:
        rng = np.random.default_rng(seed)
        codes = random_codes(rng, rows, inner + 3 * apart)[:, :inner]
        weight = weights(rng, inner, cols, layout)
        found = kernels.native_matmul(codes, weight)
        assert torch.equal(found, integers(codes, weight)), (codes.stride(), weight.stride())

    holds()


def test_the_oracle_of_this_test_wraps_as_the_ring_does() -> None:
    rng = np.random.default_rng(1)
    codes, weight = random_codes(rng, 5, 70), weights(rng, 70, 6, "plain")
    assert integers(codes, weight).tolist() == multiply(codes, weight)


@pytest.mark.parametrize(("rows", "inner", "cols"), [(3, 641, 20), (130, 1300, 50), (17, 64, 800)])
@pytest.mark.parametrize("layout", ["plain", "turned"])
def test_pieces_are_put_together(
    instructions: str, rows: int, inner: int, cols: int, layout: str
) -> None:
    rng = np.random.default_rng(rows)
    codes, weight = random_codes(rng, rows, inner), weights(rng, inner, cols, layout)
    assert torch.equal(kernels.native_matmul(codes, weight), integers(codes, weight))


@pytest.mark.parametrize("code", EDGES)
@pytest.mark.parametrize("weight", [-128, 127])
def test_sums_wrap_and_never_saturate(instructions: str, code: int, weight: int) -> None:
    """So long that each digit's sum leaves 32 bits: 255 * 128 * K > 2^31."""
    codes = torch.full((2, 140_000), code, dtype=torch.int32)
    codes[1, -1] = 1
    column = torch.full((140_000, 1), weight, dtype=torch.int8)
    for matrix in (column.expand(-1, 17).contiguous(), column.expand(-1, 17).t().contiguous().t()):
        found = kernels.native_matmul(codes, matrix)
        assert torch.equal(found, integers(codes, column).expand(-1, 17))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize(("rows", "cols"), [(1, 200), (200, 1), (40, 40), (1, 1)])
def test_any_number_of_threads_shares_the_work(
    instructions: str, threads: int, rows: int, cols: int
) -> None:
    rng = np.random.default_rng(threads)
    codes, weight = random_codes(rng, rows, 30), weights(rng, 30, cols, "turned")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = kernels.native_matmul(codes, weight)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, integers(codes, weight))


def test_strides_of_a_single_row_or_column_mean_nothing(instructions: str) -> None:
    rng = np.random.default_rng(2)
    codes, weight = random_codes(rng, 1, 40), weights(rng, 40, 1, "plain")
    expected = multiply(codes, weight)
    for one in (codes, codes.as_strided((1, 40), (999_999, 1))):
        for two in (weight, weight.as_strided((40, 1), (1, 999_999))):
            assert kernels.native_matmul(one, two).tolist() == expected
    codes, weight = random_codes(rng, 3, 1), weights(rng, 1, 70, "plain")
    for two in (weight, weight.as_strided((1, 70), (999_999, 1)), weight.t().contiguous().t()):
        assert kernels.native_matmul(codes, two).tolist() == multiply(codes, weight)


def test_nothing_is_written_beside_the_result(instructions: str) -> None:
    rng = np.random.default_rng(4)
    for rows, cols in ((1, 1), (3, 50), (16, 48), (17, 33)):
        codes, weight = random_codes(rng, rows, 10), weights(rng, 10, cols, "plain")
        room = torch.full((rows + 2, cols + 9), 7, dtype=torch.int32)
        found = kernels.native_matmul(codes, weight, room[1:-1, 4 : 4 + cols])
        assert torch.equal(found, integers(codes, weight))
        room[1:-1, 4 : 4 + cols] = 7
        assert (room == 7).all()


def test_plain_c_alone_is_not_taken_for_fast(instructions: str) -> None:
    if instructions != "neon":  # which need not have dot products
        assert kernels._is_fast() == (instructions != "plain")


def test_empty_operands(instructions: str) -> None:
    for rows, inner, cols in ((0, 3, 4), (3, 0, 4), (3, 4, 0)):
        codes = torch.ones((rows, inner), dtype=torch.int32)
        weight = torch.ones((inner, cols), dtype=torch.int8)
        assert torch.equal(kernels.native_matmul(codes, weight), integers(codes, weight))


@pytest.mark.parametrize(
    ("codes", "weight", "out"),
    [
        (torch.ones((2, 3)), torch.ones((3, 4), dtype=torch.int8), None),
        (torch.ones((2, 3), dtype=torch.int32), torch.ones((3, 4), dtype=torch.int32), None),
        (torch.ones((2, 3), dtype=torch.int32), torch.ones((4, 4), dtype=torch.int8), None),
        *(
            (torch.ones((2, 3), dtype=torch.int32), torch.ones((3, 4), dtype=torch.int8), out)
            for out in (
                torch.ones((2, 5), dtype=torch.int32),
                torch.ones((2, 4), dtype=torch.int64),
                torch.ones((4, 2), dtype=torch.int32).t(),
                torch.ones((1, 4), dtype=torch.int32).expand(2, 4),
            )
        ),
    ],
)
def test_what_does_not_fit_is_refused(codes: Tensor, weight: Tensor, out: Tensor | None) -> None:
    with library.using(SETS[0]), pytest.raises(ValueError, match=r"times|multiplied|result"):
        kernels.native_matmul(codes, weight, out)


def test_without_the_library_there_is_no_native_product() -> None:
    codes, weight = torch.ones((2, 3), dtype=torch.int32), torch.ones((3, 4), dtype=torch.int8)
    with library.using(library.OFF), pytest.raises(NotImplementedError):
        kernels.native_matmul(codes, weight)
