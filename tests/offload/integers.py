"""The slow reference of every ring product: Python's unbounded integers."""

from __future__ import annotations

import numpy as np
import torch

from sealtune.offload import passes
from sealtune.offload.codes import Budget

EDGES = (-(2**31), 2**31 - 1, -1, 0, 127, 128, -128, -129, 0x7F7F7F80)


def wrap(value: int) -> int:
    """Python integer to its int32 representative."""
    return (value + 2**31) % 2**32 - 2**31


def multiply(left: torch.Tensor, right: torch.Tensor) -> list[list[int]]:
    """``left @ right`` mod 2^32, entry by entry."""
    columns = list(zip(*right.tolist(), strict=True))
    return [
        [wrap(sum(a * b for a, b in zip(row, column, strict=True))) for column in columns]
        for row in left.tolist()
    ]


def random_codes(rng: np.random.Generator, rows: int, cols: int) -> torch.Tensor:
    """int32 [rows, cols], a third of it at the edges of a digit or of the ring."""
    values = rng.integers(-(2**31), 2**31, (rows, cols), dtype=np.int64)
    where = rng.random((rows, cols)) < 0.3
    values[where] = rng.choice(EDGES, where.sum())
    return torch.from_numpy(values.astype(np.int32))


def encoded(x: torch.Tensor, budget: Budget) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int32 [T, K] without a mask, and their steps float32 [T, 1]."""
    codes = torch.empty(x.shape, dtype=torch.int32)
    step = passes.encode_mask(x.float(), budget, None, None, codes).step
    return codes, step[:, None]
