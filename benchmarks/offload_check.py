"""What the check of products costs: both passes of a block's masked products, with and without it.

    python benchmarks/offload_check.py            # a block of SmolLM2-135M, 512 tokens

Prints a JSON line: ``check_cpu_seconds`` of one block's products, forward and backward, as the
median difference of interleaved rounds, with quartiles; ``passes_cpu_seconds`` with the check.
Seconds are of the processor, all threads together. The bound is 2^-40, as a job's default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from offload_slalom import Product, products
from sealtune.native import library
from sealtune.offload import passes, prime_check, ring
from sealtune.offload.codes import Budget
from sealtune.offload.pads import PadKey, PadStream


class Passes:
    """One product's passes over memory; the answer is made once."""

    def __init__(self, product: Product, stream: PadStream) -> None:
        import torch

        inner, cols = product.matrix.shape
        maker = prime_check.VectorMaker(inner, cols, 40)
        maker.add(0, product.matrix.to(torch.float64))
        self._check = maker.vectors(backward=True)
        self._x, self._budget = product.x, Budget(product.norm, inner)
        self._key = PadKey(stream, stream.reserve())
        self._sent = torch.empty((len(product.x), inner), dtype=torch.int32)
        mask = stream.mask(self._key.index, *self._sent.shape)
        self._unmask = ring.product(mask, product.matrix)
        self._encode(None)
        self._answer = ring.product(self._sent, product.matrix)

    def _encode(self, check: object) -> passes.Encoded:
        right = self._check.right if check else None
        return passes.encode_mask(self._x, self._budget, self._key, right, self._sent)

    def run(self, *, checked: bool) -> None:
        """Encode and mask, unmask and decode."""
        left = self._check.left if checked else None
        encoded = self._encode(checked)
        passes.unmask_decode(self._answer, self._unmask, None, encoded, None, left, "a product")


def spent(ours: list[Passes], *, checked: bool) -> float:
    """Processor seconds of all of them."""
    start = time.process_time()
    for one in ours:
        one.run(checked=checked)
    return time.process_time() - start


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--kv", type=int, default=192)
    parser.add_argument("--mlp", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    options.layers = 1
    stream = PadStream("benchmark")
    ours = [Passes(product, stream) for product in products(options)]
    with_, without = [], []
    for _ in range(options.rounds + 2):
        with_.append(spent(ours, checked=True))
        without.append(spent(ours, checked=False))
    more = [a - b for a, b in zip(with_[2:], without[2:], strict=True)]
    low, _, high = statistics.quantiles(more, n=4)
    print(json.dumps({
        "check_cpu_seconds": round(statistics.median(more), 6),
        "spread": [round(low, 6), round(high, 6)],
        "passes_cpu_seconds": round(statistics.median(with_[2:]), 6),
        "instructions": library.instructions(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
