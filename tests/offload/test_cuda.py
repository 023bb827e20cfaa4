"""Ring products on a CUDA device, against 64-bit integers on the CPU."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from sealtune.offload import kernels, ring

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
SIZES = (1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 576, 577, 1536)


def test_this_device_multiplies_bytes_exactly() -> None:
    assert kernels.arithmetic(CUDA) == "int8"


def test_two_hundred_shapes_in_both_layouts_are_exact() -> None:
    source = random.Random(1)
    wrong = []
    for _ in range(200):
        rows, inner, cols = (source.choice(SIZES) for _ in range(3))
        codes, weight = _codes(rows, inner), _weight(inner, cols)
        expected = _mod_2_32(codes, weight)
        for layout in (weight, weight.t().contiguous().t()):
            result = ring.product(codes.to(CUDA), layout.to(CUDA)).cpu()
            if not torch.equal(result, expected):
                wrong.append((rows, inner, cols, layout.is_contiguous()))
    assert wrong == []


def _codes(rows: int, cols: int) -> Tensor:
    """int32 [rows, cols], the extremes among them."""
    codes = torch.randint(-(2**31), 2**31, (rows, cols)).to(torch.int32)
    codes.view(-1)[0] = -(2**31)
    codes.view(-1)[-1] = 2**31 - 1
    return codes


def _weight(rows: int, cols: int) -> Tensor:
    """int8 [rows, cols]."""
    return torch.randint(-128, 128, (rows, cols)).to(torch.int8)


def _mod_2_32(left: Tensor, right: Tensor) -> Tensor:
    product = left.numpy().astype(np.int64) @ right.numpy().astype(np.int64)  # wraps mod 2^64
    return torch.from_numpy(product.astype(np.int32))
