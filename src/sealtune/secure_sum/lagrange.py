"""Secrets from shares over GF(2^128), as PyCryptodome's ``Shamir.combine`` puts them together.

That one multiplies in constant time, 128 steps each, in the square of the shares for every secret:
where 64 sites hold each other's, it took the server more time than their vectors. Whoever combines
shares learns the secret, so time may tell of it here.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

SIZE = 16  # bytes of a secret, and of a share
_MODULUS = 1 << 128 | 0x87  # x^128 + x^7 + x^2 + x + 1


def combine(shares: Sequence[tuple[int, bytes]]) -> bytes:
    """The secret of shares with different numbers from 1 on, exactly as many as it takes."""
    secret = 0
    numbers = tuple(number for number, _ in shares)
    for weight, (_, share) in zip(_weights(numbers), shares, strict=True):
        secret ^= _times(weight, int.from_bytes(share, "big"))
    return secret.to_bytes(SIZE, "big")


@lru_cache(maxsize=128)
def _weights(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's, at 0: alike for every secret of which shares with these numbers came."""
    found = []
    for number in numbers:
        above = below = 1
        for other in numbers:
            if other != number:
                above, below = _times(other, above), _times(other ^ number, below)
        found.append(_times(above, _inverse(below)))
    return tuple(found)


def _times(left: int, right: int) -> int:
    """The product; quick where ``left`` is small."""
    product = 0
    while left:
        if left & 1:
            product ^= right
        left >>= 1
        right <<= 1
        if right >> 128:
            right ^= _MODULUS
    return product


def _inverse(value: int) -> int:
    """By Euclid's algorithm for polynomials; of 0 there is none."""
    rest, other, found, spare = value, _MODULUS, 1, 0
    while rest != 1:
        shift = rest.bit_length() - other.bit_length()
        if shift < 0:
            rest, other, found, spare, shift = other, rest, spare, found, -shift
        rest ^= other << shift
        found ^= spare << shift
    return found
