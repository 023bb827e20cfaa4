"""Exact integer matrix products on whatever processor this is.

Two ways, both exact where they are used:

``int8``     int8 products with int32 sums. Exact only where the instruction set is made for them
             (AVX-VNNI, AVX-512 VNNI, AMX, CUDA): elsewhere oneDNN adds pairs of u8 x s8 products
             in 16 bits, and they saturate without a word.
``float64``  an integer below 2^31 times one of at most 2^7 is below 2^38; 2^15 of them add up to
             at most 2^53. Every partial sum is a float64, whatever the order: exact on any
             processor that follows IEEE 754.

Which one a device gets is proven, not looked up: ``arithmetic`` multiplies the extremes. Both give
the same integers, so parties may differ in it.

Trust domain: none of its own, as ``ring``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import product
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from sealtune.errors import OffloadError

Arithmetic = Literal["int8", "float64"]
Matmul = Callable[[Tensor, Tensor], Tensor]

_SHAPES = ((1, 64, 96), (20, 577, 33), (160, 512, 256))  # rows, inner, columns of the proof
_FLOAT64_INNER = 2**15  # products that float64 can sum up: 2^31 * 2^7 * 2^15 = 2^53
_BLOCK = 2**22  # entries of the right-hand side that are float64 at one time: 32 MiB
_CUBLAS_ROWS = 32  # more than 16
_CUBLAS_STEP = 16  # inner dimension and columns are multiples of it: 16-byte rows


@functools.cache
def arithmetic(device: torch.device) -> Arithmetic:
    """The way in which ``device`` multiplies exactly; the faster one where both do.

    Raises:
        OffloadError: neither is exact.
    """
    int8 = _is_exact(_int8_kernel, device, torch.int8)
    float64 = _is_exact(float64_matmul, device, torch.int32)
    if not int8 and not float64:
        raise OffloadError(
            f"{device} does not multiply integers exactly, neither as int8 nor as float64",
            hint="run on another processor; updating PyTorch may help",
        )
    # an int8 product without any instruction of its own can be a hundred times slower
    if int8 and (not float64 or device.type != "cpu" or _slowness_of_int8(device) < 2):
        return "int8"
    return "float64"


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
    """Both extremes on either side, both layouts of the weight; and the product, mod 2^32."""
    values, weights = torch.iinfo(left), torch.iinfo(torch.int8)
    extremes = product((values.min, values.max), (weights.min, weights.max))
    for (rows, inner, cols), (a, b) in product(_SHAPES, extremes):
        codes = torch.full((rows, inner), a, dtype=left, device=device)
        weight = torch.full((inner, cols), b, dtype=torch.int8, device=device)
        expected = (inner * a * b + 2**31) % 2**32 - 2**31
        yield codes, weight, expected
        yield codes, weight.t().contiguous().t(), expected


def _slowness_of_int8(device: torch.device) -> float:
    """How many times longer a ring product takes with int8 (four digit planes) than in float64."""
    rows, inner, cols = 64, 512, 512
    weight = torch.ones((inner, cols), dtype=torch.int8, device=device)

    def seconds(matmul: Matmul, rows: int) -> float:
        left = torch.ones((rows, inner), dtype=torch.int8, device=device)
        times = []
        for _ in range(3):
            start = perf_counter()
            matmul(left, weight)
            times.append(perf_counter() - start)
        return min(times)

    return seconds(_int8_kernel, 4 * rows) / max(seconds(float64_matmul, rows), 1e-9)
