"""Secrets from shares: as PyCryptodome has them, whichever shares come, and quickly."""

from __future__ import annotations

import random
import secrets

import pytest
from Crypto.Protocol.SecretSharing import Shamir

from sealtune.secure_sum.lagrange import _inverse, _times, combine


@pytest.mark.parametrize(("need", "holders"), [(2, 3), (3, 5), (21, 31), (41, 61)])
def test_the_secret_is_the_one_that_was_split(need: int, holders: int) -> None:
    for secret in (bytes(16), b"\xff" * 16, secrets.token_bytes(16)):
        shares = [(n, bytes(share)) for n, share in Shamir.split(need, holders, secret, False)]
        chosen = random.Random(holders).sample(shares, need)
        assert combine(chosen) == secret == bytes(Shamir.combine(chosen, False))


def test_a_wrong_share_gives_what_the_library_gives() -> None:
    shares = [(n, bytes(s)) for n, s in Shamir.split(3, 5, secrets.token_bytes(16), False)][:3]
    shares[1] = shares[1][0], secrets.token_bytes(16)
    assert combine(shares) == bytes(Shamir.combine(shares, False))


def test_an_inverse_is_one() -> None:
    for value in (1, 2, 3, 0x87, 1 << 127, (1 << 128) - 1, secrets.randbits(128) | 1):
        assert _times(value, _inverse(value)) == 1
