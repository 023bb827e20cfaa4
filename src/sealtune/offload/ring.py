"""Exact arithmetic in the ring of integers mod 2^32, carried by int8 matrix products.

A ring element is an int32 (two's complement). The library takes it as it is (``native/ring.c``).
PyTorch's int8 products take it as four signed base-256 digits
``m = d0 + 2^8 d1 + 2^16 d2 + 2^24 d3 (mod 2^32)``, ``d`` in [-128, 127]: a product with an int8
weight matrix becomes one int8 GEMM over the four stacked digit planes, exact in int32 as long as
``K * 128 * 128 < 2^31`` (K < 131,072); longer ones are cut. Where neither is exact, the codes
themselves are multiplied in float64 (see ``kernels``).

Trust domain: none of its own; the enclave (pads) and the accelerator (products) both use it, on
values that the accelerator may see or that never leave the enclave.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    digits = balance(codes.contiguous()).view(torch.int8).view(rows, cols, DIGITS)
    return digits.movedim(2, 0).reshape(DIGITS * rows, cols)


def recombine(planes: Tensor) -> Tensor:
    """Sum of ``planes[i] * 2^(8 i)`` mod 2^32.

    Args:
        planes: int32 [4, ...].

    Returns:
        int32 [...].
    """
    total = torch.add(planes[2], planes[3], alpha=256)
    torch.add(planes[1], total, alpha=256, out=total)
    return torch.add(planes[0], total, alpha=256, out=total)


def product(codes: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
    """``codes @ weight`` mod 2^32, exactly.

    Args:
        codes: int32 [T, K], any values.
        weight: int8 [K, N], any layout: a transposed view is fine.
        out: int32 [T, N], rows of neighbours; default: new.

    Returns:
        int32 [T, N], ``out`` if it was given.

    Raises:
        ValueError: the inner dimensions differ.
        OffloadError: this device multiplies integers inexactly.
    """
    if codes.shape[1] != weight.shape[0]:
        raise ValueError(f"{codes.shape[1]} columns cannot be multiplied with {len(weight)} rows")
    arithmetic = kernels.arithmetic(codes.device)
    if arithmetic == "native":
        return kernels.native_matmul(codes, weight, out)
    if arithmetic == "float64":
        result = kernels.float64_matmul(codes, weight)
    else:
        result = _by_digits(codes[:, :MAX_INNER], weight[:MAX_INNER])
        for start in range(MAX_INNER, codes.shape[1], MAX_INNER):
            end = start + MAX_INNER
            result += _by_digits(codes[:, start:end], weight[start:end])
    return result if out is None else out.copy_(result)


def _by_digits(codes: Tensor, weight: Tensor) -> Tensor:
    planes = kernels.int8_matmul(split_digits(codes), weight)
    return recombine(planes.view(DIGITS, len(codes), weight.shape[1]))
