"""Exact arithmetic in the ring of integers mod 2^32, carried by int8 matrix products.

A ring element is an int32 (two's complement). It is written as four signed base-256 digits
``m = d0 + 2^8 d1 + 2^16 d2 + 2^24 d3 (mod 2^32)``, ``d`` in [-128, 127], so that a product with an
int8 weight matrix becomes one int8 GEMM over the four stacked digit planes, exact in int32 as long
as ``K * 128 * 127 < 2^31`` (K < 132,000).

Trust domain: none of its own; the enclave (pads, checks) and the accelerator (products) both use
it, on values that the accelerator may see or that never leave the enclave.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sealtune.errors import RingBudgetError

DIGITS = 4
MAX_INNER = (2**31 - 1) // (128 * 127)  # largest K for which a digit plane's product is exact

# 0x80808080: adding it carries every digit above 127 into the next one, xor takes it off again.
_CARRY = -0x7F7F7F80


def balance(codes: Tensor) -> Tensor:
    """Rewrite int32 codes so that their four bytes, read as int8, are the balanced digits."""
    return (codes + _CARRY).bitwise_xor_(_CARRY)


def split_digits(codes: Tensor) -> Tensor:
    """Digit planes of ``codes``.

    Args:
        codes: int32 [T, K].

    Returns:
        int8 [4 * T, K]: plane 0 (lowest digit) first.
    """
    rows, cols = codes.shape
    balanced = balance(codes)
    planes = torch.empty((DIGITS, rows, cols), dtype=torch.int8, device=codes.device)
    for digit in range(DIGITS):
        # the conversion to int8 keeps the lowest byte, which is the digit
        planes[digit].copy_(balanced if digit == 0 else balanced >> (8 * digit))
    return planes.view(DIGITS * rows, cols)


def recombine(planes: Tensor) -> Tensor:
    """Sum of ``planes[i] * 2^(8 i)`` mod 2^32.

    Args:
        planes: int32 [4, ...].

    Returns:
        int32 [...].
    """
    total = planes[3] << 8
    for digit in (2, 1):
        total += planes[digit]
        total <<= 8
    total += planes[0]
    return total


def product(codes: Tensor, weight: Tensor) -> Tensor:
    """``codes @ weight`` mod 2^32, exactly.

    Args:
        codes: int32 [T, K], any values.
        weight: int8 [K, N]; a transposed view is fine.

    Returns:
        int32 [T, N].

    Raises:
        RingBudgetError: K is so large that an int32 accumulator could wrap.
    """
    rows, inner = codes.shape
    if inner > MAX_INNER:
        raise RingBudgetError(
            f"inner dimension {inner} is more than {MAX_INNER}, so int8 products are not exact",
            hint="split the layer, or keep it in the enclave",
        )
    cols = weight.shape[1]
    planes = _int8_matmul(split_digits(codes), weight)
    return recombine(planes.view(DIGITS, rows, cols))


def _int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    """int8 [M, K] @ int8 [K, N] -> int32 [M, N]."""
    if left.is_cuda:
        return _cuda_int8_matmul(left, right)
    return torch._int_mm(left, right)


def _cuda_int8_matmul(left: Tensor, right: Tensor) -> Tensor:
    # cuBLAS wants M > 16 and K, N multiples of 8: pad with zeros, which change nothing.
    rows, inner = left.shape
    cols = right.shape[1]
    pad_rows = max(17, rows) - rows
    pad_inner, pad_cols = -inner % 8, -cols % 8
    if pad_rows or pad_inner:
        left = torch.nn.functional.pad(left, (0, pad_inner, 0, pad_rows))
    if pad_inner or pad_cols:
        right = torch.nn.functional.pad(right, (0, pad_cols, 0, pad_inner))
    return torch._int_mm(left, right)[:rows, :cols].contiguous()
