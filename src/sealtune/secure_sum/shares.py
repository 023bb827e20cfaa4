"""Shares of a site's two secrets: made, sealed for who holds them, and put together again.

Shamir's scheme is PyCryptodome's, over GF(2^128): a secret is 16 bytes, and share number i is the
i-th holder's (``lagrange`` puts them together). AES-256-GCM seals the two shares of one holder.

Trust domain: data owner, server operator.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import TypeAlias

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.errors import SecureAggregationError
from sealtune.secure_sum import lagrange
from sealtune.secure_sum.roster import Roster

_Share: TypeAlias = tuple[int, bytes]  # its number, from 1
SECRET = lagrange.SIZE  # bytes, of a secret and of a share of one
_NONCE, _TAG = 12, 16
SEALED = _NONCE + 2 * SECRET + _TAG
_TRIES = 1000  # sets of shares to try where some do not fit


def split(roster: Roster, site: str, secret: bytes) -> dict[str, bytes]:
    """A share of a secret of ``site`` for each of its holders."""
    holders = roster.holders(site)
    made = Shamir.split(roster.threshold(site), len(holders), secret, False)
    return {holders[number - 1]: bytes(share) for number, share in made}


def join(
    roster: Roster, site: str, given: Mapping[str, bytes], fits: Callable[[bytes], bool]
) -> bytes:
    """The secret of ``site`` from its holders' shares, leaving out such as do not fit.

    Args:
        fits: whether a secret is the one.

    Raises:
        SecureAggregationError: too few shares, or too many wrong ones.
    """
    holders, need = roster.holders(site), roster.threshold(site)
    shares = [(holders.index(holder) + 1, share) for holder, share in sorted(given.items())]
    if len(shares) < need:
        raise SecureAggregationError(
            f"{len(shares)} shares of a secret of {site} came; it takes {need}"
        )
    for chosen in _sets(shares, need):
        secret = lagrange.combine(chosen)
        if fits(secret):
            return secret
    raise SecureAggregationError(
        f"wrong shares of a secret of {site}: it made them so, or others altered theirs",
        hint="continue with --resume; if it is the same site every time, look for the fault there",
    )


def _sets(shares: Sequence[_Share], need: int) -> Iterator[list[_Share]]:
    """Sets to try: all, or where those are too many, drawn ones, so that no one is in most."""
    if comb(len(shares), need) <= _TRIES:
        yield from map(list, combinations(shares, need))
        return
    yield list(shares[:need])  # alike at most sites, and nearly always good
    for _ in range(_TRIES):
        yield secrets.SystemRandom().sample(shares, need)


def pair_key(
    roster: Roster, own: X25519PrivateKey, other: bytes, purpose: str, *names: str
) -> bytes:
    """32 bytes that two sites have in common, for one purpose in one sum.

    Args:
        other: the other site's public key.
        names: both sites', in an order that both know.

    Raises:
        SecureAggregationError: a key that no honest site makes.
    """
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:  # of small order
        raise SecureAggregationError("a site's key is none that a site makes") from error
    info = roster.terms.context(purpose, roster.digest, *map(str.encode, names))
    return HKDF(SHA256(), 32, salt=None, info=info).derive(shared)


def seal(key: bytes, shares: bytes) -> bytes:
    """Seal two shares under the key of sender and holder."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, shares, None)


def unseal(key: bytes, sealed: bytes, sender: str) -> tuple[bytes, bytes]:
    """The two shares, of the sender's masking key and of its own mask's seed.

    Raises:
        SecureAggregationError: altered, of another sum or for another site.
    """
    try:
        both = AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
    except (InvalidTag, ValueError) as error:
        raise SecureAggregationError(
            f"the shares from {sender} do not open: altered, or of another sum or site"
        ) from error
    if len(both) != 2 * SECRET:
        raise SecureAggregationError(f"the shares from {sender} have {len(both)} bytes")
    return both[:SECRET], both[SECRET:]
