"""Catching a lying accelerator: secret vectors modulo the prime p = 2^31 - 1.

Claim to check: ``Y = X W`` for code rows X [T, K], public int8 W [K, N] and the unmasked result Y.
For each layer and direction the enclave draws C secret vectors ``s``, uniform in Z_p^N, once, and
keeps ``u = W s mod p``. It accepts Y if every entry is in (-2^30, 2^30) and, for each row and each
vector, ``y . s = x . u (mod p)``. Weights are needed to make ``u`` and for nothing else.

1. *Honest answers pass.* The budget of ``codes`` keeps every entry of ``X W`` in (-2^30, 2^30), as
   an integer. So what arrives mod 2^32, read as int32, is that integer, and
   ``y . s = x W s = x . u`` holds over the integers, hence mod p.
2. *A lie in range is no lie mod p.* If a wrong Y passes the range check, both it and the truth lie
   in (-2^30, 2^30), so they differ by integers ``e``, not all 0, with ``|e| <= 2^31 - 2 < p``. Thus
   ``e`` is not 0 mod p in some row, and ``e . s`` is uniform in Z_p: it is 0, and one vector misses
   the lie, with probability 1 / p. C independent vectors all miss it with p^-C; more wrong rows
   only add conditions.
3. *The first lie decides*, so the same vectors serve for all calls. While answers are right, checks
   pass whatever ``s`` is: nothing that the accelerator sees depends on ``s``, and it chooses its
   first wrong answer independently of ``s``. If that is caught, the run ends; no further answer is
   taken. To have any wrong answer accepted, it must have the first one accepted: probability at
   most p^-C for a whole run, over all layers, calls and strategies, however adaptive. A restarted
   enclave draws other vectors, so each start is a run of its own.
4. *Masks play no part in it.* An error in the answer, or in the pad's product if another machine
   made that, is an error in Y. Without masks (``insecure-none``) the accelerator also sees X and
   can choose ``e`` by it, but still not by ``s``: the bound is the same.

Freivalds, "Probabilistic machines can use less running time", IFIP 1977, multiplies with fresh
vectors instead, which takes the weights at every call; mod 2^32 it also misses e = 2^31 every
second time.

Trust domain: client enclave. The vectors are secret: who knows ``s`` can lie along its kernel.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import Tensor

PRIME = 2**31 - 1
_EXACT = 2**15  # products below 2^31 * 2^7 that float64 adds up exactly: 2^53


@dataclass(frozen=True)
class CheckVectors:
    """What checks ``Y = X W`` of one layer and direction.

    Attributes:
        left: uint32 [C, N], below ``PRIME``: ``s``.
        right: uint32 [C, K], below ``PRIME``: ``W s``.
    """

    left: Tensor
    right: Tensor


def count(bits: int, prime: int = PRIME) -> int:
    """How many vectors miss a lie with probability at most 2^-bits: the least C, p^C >= 2^bits."""
    vectors = 1
    while prime**vectors < 2**bits:
        vectors += 1
    return vectors


class VectorMaker:
    """Makes a matrix's check vectors while its rows stream by, each seen once.

    Args:
        outer, inner: shape of the matrix M [outer, inner].
        bits: exponent of the bound.
        prime: for tests of the miss rate.

    Usage::

        maker = VectorMaker(outer, inner, bits)
        for start, rows in stream:
            maker.add(start, rows)
        forward, backward = maker.vectors(backward=False), maker.vectors(backward=True)
    """

    def __init__(self, outer: int, inner: int, bits: int, prime: int = PRIME) -> None:
        self._prime = prime
        vectors = count(bits, prime)
        self._outer, self._inner = (_uniform(vectors, size, prime) for size in (outer, inner))
        self._to_inner = torch.zeros((vectors, inner), dtype=torch.int64)
        self._to_outer = torch.zeros((vectors, outer), dtype=torch.int64)

    def add(self, start: int, rows: Tensor) -> None:
        """Take rows ``start, start + 1, ...``: float64 [n, inner], integers in [-128, 127]."""
        block = slice(start, start + len(rows))
        self._to_inner += _product(self._outer[:, block], rows, self._prime)
        self._to_inner %= self._prime
        self._to_outer[:, block] = _product(self._inner, rows.t(), self._prime)

    def vectors(self, *, backward: bool) -> CheckVectors:
        """For ``X M^T`` (forward, as of a linear layer) or ``X M`` (backward)."""
        left, right = (self._inner, self._to_outer) if backward else (self._outer, self._to_inner)
        return CheckVectors(left.to(torch.uint32), right.to(torch.uint32))


def sums(values: Tensor, vectors: Tensor, prime: int = PRIME) -> Tensor:
    """``values @ vectors^T mod p``, exactly: the slow way that native passes are held against.

    Args:
        values: int32 [T, K].
        vectors: uint32 [C, K], below ``prime``.

    Returns:
        int64 [T, C], from 0 to ``prime - 1``.
    """
    wide = values.to(torch.int64)
    columns = [
        (wide * vector).remainder_(prime).sum(1) % prime for vector in vectors.to(torch.int64)
    ]
    return torch.stack(columns, dim=1)


def _product(left: Tensor, right: Tensor, prime: int) -> Tensor:
    """int64 [C, m] below ``prime`` times float64 [m, n], in pieces that float64 holds exactly."""
    total = torch.zeros((left.shape[0], right.shape[1]), dtype=torch.int64)
    for start in range(0, left.shape[1], _EXACT):
        piece = slice(start, start + _EXACT)
        total += (left[:, piece].to(torch.float64) @ right[piece]).to(torch.int64) % prime
    return total % prime


def _uniform(vectors: int, size: int, prime: int) -> Tensor:
    """int64 [vectors, size], uniform from 0 to ``prime - 1``, from the operating system."""
    values = _draw(vectors * size, prime)
    while len(rejected := (values >= prime).nonzero()):
        values[rejected[:, 0]] = _draw(len(rejected), prime)
    return values.view(vectors, size)


def _draw(size: int, prime: int) -> Tensor:
    raw = bytearray(secrets.token_bytes(4 * size))
    if not raw:
        return torch.empty(0, dtype=torch.int64)
    values = torch.frombuffer(raw, dtype=torch.int32).to(torch.int64)
    return values.bitwise_and_(2 ** prime.bit_length() - 1)
