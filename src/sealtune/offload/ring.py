"""Exact arithmetic in the ring of integers mod 2^32, carried by int8 matrix products.

A ring element is an int32 (two's complement). It is written as four signed base-256 digits
``m = d0 + 2^8 d1 + 2^16 d2 + 2^24 d3 (mod 2^32)``, ``d`` in [-128, 127], so that a product with an
int8 weight matrix becomes one int8 GEMM over the four stacked digit planes, exact in int32 as long
as ``K * 128 * 128 < 2^31`` (K < 131,072). Where the processor has no exact int8 product, the codes
themselves are multiplied in float64 (see ``kernels``).

Trust domain: none of its own; the enclave (pads, checks) and the accelerator (products) both use
it, on values that the accelerator may see or that never leave the enclave.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sealtune.errors import RingBudgetError
from sealtune.offload import kernels

DIGITS = 4
MAX_INNER = (2**31 - 1) // (128 * 128)  # largest K for which a digit plane's product is exact

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
        OffloadError: this device multiplies integers inexactly.
    """
    rows, inner = codes.shape
    if inner > MAX_INNER:
        raise RingBudgetError(
            f"inner dimension {inner} is more than {MAX_INNER}, so int8 products are not exact",
            hint="split the layer, or keep it in the enclave",
        )
    if kernels.arithmetic(codes.device) == "float64":
        return kernels.float64_matmul(codes, weight)
    planes = kernels.int8_matmul(split_digits(codes), weight)
    return recombine(planes.view(DIGITS, rows, weight.shape[1]))


def combine(combination: Tensor, codes: Tensor) -> Tensor:
    """``combination @ codes`` mod 2^32, exactly: sums of token rows.

    Args:
        combination: int8 [C, T]; T at most ``MAX_INNER``.
        codes: int32 [T, K], any values.

    Returns:
        int32 [C, K].
    """
    if kernels.arithmetic(codes.device) == "float64":
        return kernels.float64_matmul(combination, codes)
    rows, cols = codes.shape
    digits = balance(codes).reshape(-1).view(torch.int8)  # digits of one code side by side
    sums = kernels.int8_matmul(combination, digits.view(rows, cols * DIGITS))
    return recombine(sums.view(combination.shape[0], cols, DIGITS).movedim(2, 0))
