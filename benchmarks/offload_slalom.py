"""Masked products in the manner of Slalom against ours: the same shapes, threads and key stream.

    python benchmarks/offload_slalom.py                       # shapes of SmolLM2-135M, 512 tokens
    python benchmarks/offload_slalom.py --hidden 2048 --kv 512 --mlp 8192 --layers 1

Prints a JSON line: ``slalom_speedup`` = seconds of its online products over ours, medians of
interleaved rounds, quartiles in ``spread``; ``slalom_total_speedup`` with what is made beforehand;
``slalom_floor`` = its float64 products alone over all of ours, however good the passes around them;
``seconds`` of each; ``error`` of either against float64, relative. Online is all of it but the
transfer: coding, mask, product, unmasking, check, decoding, forward and backward.

Slalom (Tramer and Boneh, ICLR 2019) computes in the prime field of p = 2^24 - 3: codes and weights
are small integers, the sum of a code and a uniform mask goes out mod p, products are float64, which
is exact, and a check with secret vectors (Freivalds) catches a wrong one. Here it has what it can
have in PyTorch: AES in C for its masks (ours), float64 weights that are kept, passes in place, a
scale for each row, and checks whose vectors are made beforehand. A uniform vector of the field does
not fit into exact float64 sums, so check vectors have 18 bits, and three of them stand for 2^-54.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if "sealtune" not in sys.modules:  # a bare machine has the sources alone
    sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import Tensor

from sealtune.native import library
from sealtune.offload import passes, prime_check, ring
from sealtune.offload.codes import Budget
from sealtune.offload.pads import PadKey, PadStream

P = 2**24 - 3
VECTORS, VECTOR_BITS = 3, 18  # 2^23 * 2^18 * N < 2^53 for N below 4,096; longer ones in pieces
_PIECE = 2**12
_ROWS = 256  # at one time


@dataclass
class Product:
    """One masked product: ``x @ matrix``.

    Attributes:
        x: float32 [T, K].
        matrix: int8 [K, N], a view of the weight or of its transpose.
    """

    x: Tensor
    matrix: Tensor

    @property
    def norm(self) -> float:
        """Largest 2-norm of a column."""
        return float(torch.linalg.vector_norm(self.matrix.to(torch.float32), dim=0).max())


class Slalom:
    """A product in the prime field; see above. Rows go through it in pieces that fit caches."""

    def __init__(self, product: Product, stream: PadStream) -> None:
        self._wide = product.matrix.to(torch.float64)
        inner, cols = product.matrix.shape
        self._code_norm = 0.99 * (P // 2) / product.norm - 0.5 * inner**0.5
        self._left = torch.randint(2**VECTOR_BITS, (cols, VECTORS)).to(torch.float64)
        self._right = _residues(self._wide @ self._left)
        self._right[self._right > P // 2] -= P
        self._x, self._stream = product.x, stream
        self._unmask = torch.empty((len(product.x), cols), dtype=torch.int32)
        self._sent = torch.empty((_ROWS, inner), dtype=torch.int32)
        self._answer = torch.empty((_ROWS, cols), dtype=torch.int32)
        self._out = torch.empty((len(product.x), cols))
        self._room = {
            size: torch.empty((_ROWS, size), dtype=torch.float64) for size in (inner, cols)
        }
        self._quotient = torch.empty((_ROWS, cols), dtype=torch.float64)

    def prepare(self) -> None:
        """What is made beforehand: the mask's product."""
        self._index = self._stream.reserve()
        mask = self._mask()
        for start in range(0, len(mask), _ROWS):
            rows = slice(start, start + _ROWS)
            self._unmask[rows] = self._multiply(mask[rows])

    def online(self) -> Tensor:
        """float32 [T, N]."""
        mask = self._mask()
        for start in range(0, len(mask), _ROWS):
            rows = slice(start, start + _ROWS)
            self._piece(self._x[rows], mask[rows], self._unmask[rows], self._out[rows])
        return self._out

    def _piece(self, x: Tensor, mask: Tensor, unmask: Tensor, out: Tensor) -> None:
        scale = self._code_norm / torch.linalg.vector_norm(x, dim=1, keepdim=True)
        codes = (x * scale).round_()
        sums = self._by_vectors(codes, self._right)
        sent = self._sent[: len(x)]
        sent.copy_(codes).add_(mask)
        _into(sent, 0)
        y = self._multiply(sent).sub_(unmask)
        _into(y, -(P // 2))
        if not torch.equal(self._by_vectors(y, self._left), sums):
            raise RuntimeError("the product is wrong")
        torch.mul(y, 1 / scale, out=out)

    def bare(self) -> None:
        """The float64 product, and nothing else."""
        for start in range(0, len(self._x), _ROWS):
            rows = self._x[start : start + _ROWS].to(torch.float64)
            torch.mm(rows, self._wide, out=self._room[self._wide.shape[1]][: len(rows)])

    def _mask(self) -> Tensor:
        """int32 [T, K], below 2^24: uniform but for three values in 2^24."""
        mask = self._stream.mask(self._index, len(self._x), len(self._wide))
        return mask.bitwise_and_(2**24 - 1)

    def _multiply(self, codes: Tensor) -> Tensor:
        """The accelerator's part: int32 [T, N], from 0 to p - 1."""
        rows, cols = len(codes), self._wide.shape[1]
        product, quotient = self._room[cols][:rows], self._quotient[:rows]
        torch.mm(codes.to(torch.float64), self._wide, out=product)
        # half a unit keeps the quotient of an integer below 2^50 off its edges
        torch.add(product, 0.5, out=quotient).mul_(1 / P).floor_()
        return self._answer[:rows].copy_(product.sub_(quotient, alpha=P))

    def _by_vectors(self, values: Tensor, vectors: Tensor) -> Tensor:
        """``values @ vectors mod p`` [T, C]; sums of either are below 2^53 in each piece."""
        wide = self._room[values.shape[1]][: len(values)].copy_(values)
        total = torch.zeros((len(values), VECTORS), dtype=torch.float64)
        for start in range(0, len(vectors), _PIECE):
            piece = slice(start, start + _PIECE)
            total += _residues(wide[:, piece] @ vectors[piece])
        return _residues(total)


def _residues(values: Tensor) -> Tensor:
    """Integers mod p, from 0."""
    return values.remainder(P)


def _into(values: Tensor, low: int) -> None:
    """Bring int32 values that are at most p away into [low, low + p), in place."""
    values.add_(values.sub(low).bitwise_right_shift_(31).bitwise_and_(P))
    above = values.sub(low + P).bitwise_right_shift_(31).bitwise_not_()
    values.sub_(above.bitwise_and_(P))


class Ours:
    """The same product in the ring mod 2^32."""

    def __init__(self, product: Product, stream: PadStream) -> None:
        self._x, self._matrix, self._stream = product.x, product.matrix, stream
        inner, cols = product.matrix.shape
        self._budget = Budget(product.norm, inner)
        maker = prime_check.VectorMaker(inner, cols, 40)
        maker.add(0, product.matrix.to(torch.float64))
        self._check = maker.vectors(backward=True)
        self._sent = torch.empty((len(product.x), inner), dtype=torch.int32)
        self._answer = torch.empty((len(product.x), cols), dtype=torch.int32)

    def prepare(self) -> None:
        """What is made beforehand: the mask's product."""
        self._key = PadKey(self._stream, self._stream.reserve())
        mask = self._stream.mask(self._key.index, *self._sent.shape)
        self._unmask = ring.product(mask, self._matrix)

    def online(self) -> Tensor:
        """float32 [T, N]."""
        encoded = passes.encode_mask(
            self._x, self._budget, self._key, self._check.right, self._sent
        )
        answer = ring.product(self._sent, self._matrix, self._answer)
        return passes.unmask_decode(
            answer, self._unmask, None, encoded, None, self._check.left, "a product"
        )


Way = Slalom | Ours


def products(options: argparse.Namespace) -> list[Product]:
    """Of the linear groups of some blocks, forward and backward, with random values."""
    hidden, mlp = options.hidden, options.mlp
    torch.manual_seed(1)
    found = []
    for _ in range(options.layers):
        for cols, inner in (
            (hidden + 2 * options.kv, hidden), (hidden, hidden), (2 * mlp, hidden), (hidden, mlp),
        ):  # fmt: skip
            weight = torch.randn(cols, inner).mul_(40).round_().clamp_(-127, 127).to(torch.int8)
            found.append(Product(torch.randn(options.tokens, inner), weight.t()))
            found.append(Product(torch.randn(options.tokens, cols), weight))
    return found


def error(ways: Sequence[Way], wanted: Sequence[Product]) -> float:
    """Relative, against float64, over all products."""
    wrong = right = 0.0
    for way, product in zip(ways, wanted, strict=True):
        way.prepare()
        true = product.x.to(torch.float64) @ product.matrix.to(torch.float64)
        wrong += float((way.online() - true).square().sum())
        right += float(true.square().sum())
    return (wrong / right) ** 0.5


def timed(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds of them all."""
    start = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - start


def divide(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def middle(values: Sequence[float]) -> float:
    """Median, to two digits."""
    return round(statistics.median(values), 2)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Interleaved rounds; the JSON line."""
    wanted, stream = products(options), PadStream("benchmark")
    slalom = [Slalom(product, stream) for product in wanted]
    ours = [Ours(product, stream) for product in wanted]
    errors = {"slalom": error(slalom, wanted), "ours": error(ours, wanted)}
    seconds: dict[str, list[float]] = {}
    begun = time.perf_counter()
    while len(seconds.get("ours", ())) < 3 or time.perf_counter() - begun < options.seconds:
        found = {
            "slalom_pads": timed([one.prepare for one in slalom]),
            "slalom": timed([one.online for one in slalom]),
            "slalom_products": timed([one.bare for one in slalom]),
            "ours_pads": timed([one.prepare for one in ours]),
            "ours": timed([one.online for one in ours]),
        }
        for name, value in found.items():
            seconds.setdefault(name, []).append(value)
    total = {
        name: [a + b for a, b in zip(seconds[name], seconds[f"{name}_pads"], strict=True)]
        for name in ("slalom", "ours")
    }
    ratios = divide(seconds["slalom"], seconds["ours"])
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "slalom_speedup": middle(ratios),
        "spread": [round(quarters[0], 2), round(quarters[2], 2)],
        "slalom_total_speedup": middle(divide(total["slalom"], total["ours"])),
        "slalom_floor": middle(divide(seconds["slalom_products"], seconds["ours"])),
        "seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "error": {name: float(f"{value:.2g}") for name, value in errors.items()},
        "rounds": len(ratios),
        "threads": torch.get_num_threads(),
        "instructions": library.instructions(),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description="Slalom-style products against ours")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--kv", type=int, default=192)
    parser.add_argument("--mlp", type=int, default=1536)
    parser.add_argument("--layers", type=int, default=2, help="blocks, each with its own weights")
    parser.add_argument("--seconds", type=float, default=10.0)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
