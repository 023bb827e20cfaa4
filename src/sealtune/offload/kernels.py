"""Exact integer matrix products on whatever processor this is.

Three ways, all exact where they are used:

``native``   ``native/ring.c``: its instructions wrap, so it knows no bound. Where the library is.
``int8``     int8 products with int32 sums, by PyTorch. Exact only where the instruction set is made
             for them (AVX-VNNI, AVX-512 VNNI, AMX, CUDA): elsewhere oneDNN adds pairs of u8 x s8
             products in 16 bits, and they saturate without a word.
``float64``  an integer below 2^31 times one of at most 2^7 is below 2^38; 2^15 of them add up to
             at most 2^53. Every partial sum is a float64, whatever the order: exact on any
             processor that follows IEEE 754.

Which one a device gets is proven, not looked up: ``arithmetic`` multiplies the extremes. All give
the same integers, so parties may differ in it.

Trust domain: none of its own, as ``ring``.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from itertools import product
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from sealtune.errors import OffloadError
from sealtune.native import library

Arithmetic = Literal["native", "int8", "float64"]
Matmul = Callable[[Tensor, Tensor], Tensor]

# rows, inner, columns of the proof; the last is so long that sums of extremes leave 32 bits
_SHAPES = ((1, 64, 96), (20, 577, 33), (160, 512, 256), (1, 70_000, 16))
_CODES = (-(2**31), 2**31 - 1, -1, -0x7F7F7F80)  # the last two: each digit 255, or -128
_FLOAT64_INNER = 2**15  # products that float64 can sum up: 2^31 * 2^7 * 2^15 = 2^53
_BLOCK = 2**22  # entries of the right-hand side that are float64 at one time: 32 MiB
_CUBLAS_ROWS = 32  # more than 16
_CUBLAS_STEP = 16  # inner dimension and columns are multiples of it: 16-byte rows
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64
_PRODUCT = (
    *(_POINTER, _SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE),
    *(_SIZE, _SIZE, _SIZE, ctypes.c_int),
)


def arithmetic(device: torch.device) -> Arithmetic:
    """The way in which ``device`` multiplies exactly.

    The first that is exact and has instructions for it; else the first, unless a later one is more
    than twice as fast.

    Raises:
        OffloadError: none is exact.
    """
    return _proven(device, library.instructions())


@functools.cache
def _proven(device: torch.device, _instructions: str) -> Arithmetic:
    ways: dict[Arithmetic, tuple[Matmul, torch.dtype]] = {
        "native": (native_matmul, torch.int32),
        "int8": (_int8_kernel, torch.int8),
        "float64": (float64_matmul, torch.int32),
    }
    exact: list[Arithmetic] = []
    for name, way in ways.items():
        if not _is_exact(way[0], device, way[1]):
            continue
        if device.type != "cpu" or (name == "native" and _is_fast()):
            return name  # made for it
        exact.append(name)
    if not exact:
        raise OffloadError(
            f"{device} does not multiply integers exactly, neither as int8 nor as float64",
            hint="run on another processor; updating PyTorch may help",
        )
    # without instructions of its own a product can take a hundred times longer
    seconds = {name: _seconds(*ways[name]) for name in exact}
    best = exact[0]
    for name in exact[1:]:
        if 2 * seconds[name] < seconds[best]:
            best = name
    return best


def _is_fast() -> bool:
    """Whether the library's product has instructions for it here."""
    asked = library.function("sealtune_ring_is_fast")
    return asked is not None and bool(asked())


def native_matmul(codes: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """``codes @ weight`` mod 2^32 by the library.

    Args:
        codes: int32 [T, K] on the processor.
        weight: int8 [K, N], any layout.
        out: int32 [T, N], rows of neighbours; default: new. May be memory that others see.

    Returns:
        ``out``.

    Raises:
        NotImplementedError: there is no library, or the operands are not on the processor.
        ValueError: shapes or dtypes do not fit.
    """
    multiply = library.function("sealtune_ring_product", *_PRODUCT)
    if multiply is None or codes.device.type != "cpu" or weight.device.type != "cpu":
        raise NotImplementedError("the library has no product for this device")
    if codes.dtype != torch.int32 or weight.dtype != torch.int8:
        raise ValueError(f"{codes.dtype} times {weight.dtype}, not int32 times int8")
    (rows, inner), (depth, cols) = codes.shape, weight.shape
    if depth != inner:
        raise ValueError(f"{inner} columns cannot be multiplied with {depth} rows")
    if out is None:
        out = torch.empty((rows, cols), dtype=torch.int32)
    _expect_rows(out, rows, cols)
    if codes.stride(1) != 1:
        codes = codes.contiguous()
    weight, steps = _with_a_unit_stride(weight)
    multiply(
        *(codes.data_ptr(), codes.stride(0), weight.data_ptr(), *steps, out.data_ptr()),
        *(out.stride(0), rows, inner, cols, torch.get_num_threads()),
    )
    return out


def _expect_rows(out: Tensor, rows: int, cols: int) -> None:
    """Rows that do not overlap, of neighbours; strides of a single row or column mean nothing."""
    beside = out.stride(1) == 1 or cols <= 1
    apart = out.stride(0) >= cols or rows <= 1
    fits = out.dtype == torch.int32 and out.shape == (rows, cols) and out.device.type == "cpu"
    if not (fits and beside and apart):
        raise ValueError(f"the result of a product is no matrix of {rows} x {cols} int32 rows")


def _with_a_unit_stride(weight: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The matrix, and its strides, one of them 1."""
    inner, cols = weight.shape
    down, across = weight.stride()
    if inner == 1:  # a stride along a single entry means nothing
        return weight, (1, across)
    if cols == 1:
        return weight, (down, 1)
    if 1 not in (down, across):
        weight, down, across = weight.contiguous(), cols, 1
    return weight, (down, across)


def int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    """int8 [M, K] @ int8 [K, N] -> int32 [M, N]; exact where ``arithmetic`` says ``int8``."""
    try:
        return _int8_kernel(left, right)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return float64_matmul(left, right)  # a shape that the library has no kernel for


def _int8_kernel(left: Tensor, right: Tensor) -> Tensor:
    if left.is_cuda:
        return cublas_matmul(left, right)
    # column-major is fine on the right; any other strides are made row-major: of a single row or
    # column they may be anything, and then PyTorch reads beyond it
    turned = right.stride() == (1, right.shape[0]) and right.shape[0] > 1
    return torch._int_mm(_row_major(left), right if turned else _row_major(right))


def _row_major(matrix: Tensor) -> Tensor:
    return matrix.reshape(-1).view(matrix.shape)


def cublas_matmul(left: Tensor, right: Tensor) -> Tensor:
    """``int8_matmul`` of any shape and layout, as cuBLAS wants it.

    It takes more than 16 rows, row-major ``left``, column-major ``right``, and rows of both that
    are aligned. Zeros that are added change nothing.
    """
    rows, inner = left.shape
    cols = right.shape[1]
    more_rows = max(_CUBLAS_ROWS, rows) - rows
    more_inner, more_cols = -inner % _CUBLAS_STEP, -cols % _CUBLAS_STEP
    turned = right.t()
    if more_rows or more_inner:
        left = torch.nn.functional.pad(left, (0, more_inner, 0, more_rows))
    if more_inner or more_cols:
        turned = torch.nn.functional.pad(turned, (0, more_inner, 0, more_cols))
    result = torch._int_mm(left.contiguous(), turned.contiguous().t())
    return result[:rows, :cols].contiguous()


def laid_out(weight: Tensor) -> Tensor:
    """The weight as this device multiplies it without a copy: for several products with it.

    cuBLAS wants it column-major; turning it takes a good part of a product of few rows.
    """
    return _column_major(weight) if weight.is_cuda else weight


def _column_major(matrix: Tensor) -> Tensor:
    return matrix.t().contiguous().t()


def float64_matmul(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` mod 2^32, one of them int32 and the other int8 (or both int8).

    Args:
        left: [M, K].
        right: [K, N], any layout.

    Returns:
        int32 [M, N].

    Raises:
        ValueError: the inner dimensions differ.
    """
    rows, inner = left.shape
    if right.shape[0] != inner:
        raise ValueError(f"{inner} columns cannot be multiplied with {right.shape[0]} rows")
    cols = right.shape[1]
    wide = left.to(torch.float64)
    result = torch.zeros((rows, cols), dtype=torch.int32, device=left.device)
    for start in range(0, inner, _FLOAT64_INNER):
        end = min(start + _FLOAT64_INNER, inner)
        step = max(1, _BLOCK // (end - start))
        for at in range(0, cols, step):
            block = right[start:end, at : at + step].to(torch.float64)
            # by way of int64: the sum wraps to 32 bits there, a float would not
            result[:, at : at + step] += (wide[:, start:end] @ block).to(torch.int64)
    return result


def _is_exact(matmul: Matmul, device: torch.device, left: torch.dtype) -> bool:
    """Whether ``matmul`` is right where saturation or rounding, if there is any, must show."""
    try:
        return all(
            bool((matmul(codes, weight) == expected).all())
            for codes, weight, expected in _hardest(device, left)
        )
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return False  # this device has no such product


def _hardest(device: torch.device, left: torch.dtype) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Extremes on either side, both layouts of the weight; and the product, mod 2^32."""
    weights = (-128, 127)
    values = _CODES if left == torch.int32 else weights
    for (rows, inner, cols), a, b in product(_SHAPES, values, weights):
        codes = torch.full((rows, inner), a, dtype=left, device=device)
        weight = torch.full((inner, cols), b, dtype=torch.int8, device=device)
        expected = (inner * a * b + 2**31) % 2**32 - 2**31
        yield codes, weight, expected
        yield codes, weight.t().contiguous().t(), expected


def _seconds(matmul: Matmul, left: torch.dtype) -> float:
    """Of a ring product, which is four digit planes where ``left`` is int8."""
    rows, inner, cols = 64 * (4 if left == torch.int8 else 1), 512, 512
    codes = torch.ones((rows, inner), dtype=left)
    weight = torch.ones((inner, cols), dtype=torch.int8)
    times = []
    for _ in range(3):
        start = perf_counter()
        matmul(codes, weight)
        times.append(perf_counter() - start)
    return min(times)
