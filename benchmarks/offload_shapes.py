"""Whether a device's ring products are exact: 200 shapes against the processor's own.

    python benchmarks/offload_shapes.py cuda

Prints a JSON line: ``wrong`` (shapes with an entry that differs, or that fail), ``of``, ``worst``.
Few rows, odd sizes, both layouts and extreme values stand beside a model's own shapes.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))

import torch

from sealtune.offload import kernels, ring

COUNT = 200
_EDGES = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
_MODEL = ((2048, 2048, 3072), (2048, 2048, 16384), (2048, 8192, 2048), (2048, 4096, 6144))


def shapes(tiny: bool) -> Iterator[tuple[int, int, int]]:
    """(rows, inner, columns)."""
    draw = random.Random(1)
    yield from ((rows, inner, cols) for rows in (1, 5, 17) for inner, cols in ((1, 1), (7, 9)))
    yield from () if tiny else _MODEL
    while True:
        rows = draw.choice((*_EDGES, 200, 256, 511, 2048))
        inner = draw.choice((*_EDGES, 576, 577, 1536, 2048, 4096))
        yield rows, inner, draw.choice((*_EDGES, 576, 577, 1536, 2048, 3001))


def is_exact(device: torch.device, shape: tuple[int, int, int], number: int) -> bool:
    """One product there and here."""
    rows, inner, cols = shape
    lowest, highest = -(2**31), 2**31
    codes = torch.randint(lowest, highest, (rows, inner), dtype=torch.int64).to(torch.int32)
    weight = torch.randint(-128, 128, (cols, inner), dtype=torch.int8)
    if number % 5 == 0:  # the extremes, where sums that saturate or round would show
        codes.fill_(random.choice((lowest, highest - 1)))
        weight.fill_(random.choice((-128, 127)))
    there = weight.to(device)
    right = there.t() if number % 2 else there.t().contiguous()
    found = ring.product(codes.to(device), right).cpu()
    return torch.equal(found, kernels.float64_matmul(codes, weight.t()))


def main() -> None:
    """Sweep, print."""
    device, tiny = torch.device(sys.argv[1]), "--tiny" in sys.argv
    wrong, begun, count = [], time.perf_counter(), COUNT // 5 if tiny else COUNT
    torch.manual_seed(1)
    for number, shape in zip(range(count), shapes(tiny), strict=False):
        try:
            exact, why = is_exact(device, shape, number), "another result"
        except Exception as error:
            exact, why = False, f"{type(error).__name__}: {error}"[:200]
        if not exact:
            wrong.append(f"{shape} {why}")
    took = round(time.perf_counter() - begun, 1)
    print(json.dumps({"wrong": len(wrong), "of": count, "which": wrong[:5], "took": took}))


if __name__ == "__main__":
    main()
