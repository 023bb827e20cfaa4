"""A site's two secrets for one sum, and what follows from each.

The server may learn one of them, never both: the masking secret of a site that was lost, so that
the masks that it shared come off the others' vectors, or the seed of the own mask of a site whose
vector is in the sum.

Trust domain: data owner, server operator.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.secure_sum.ring import Vector, add_mask
from sealtune.secure_sum.roster import Roster
from sealtune.secure_sum.shares import pair_key
from sealtune.secure_sum.terms import Terms


def masking_key(terms: Terms, site: str, secret: bytes) -> X25519PrivateKey:
    """The private masking key that follows from 16 secret bytes."""
    return X25519PrivateKey.from_private_bytes(_derive(terms, "masking-key", site, secret))


def own_mask_key(terms: Terms, site: str, secret: bytes) -> bytes:
    """The key of a site's own mask, from 16 secret bytes."""
    return _derive(terms, "own-mask", site, secret)


def commitment(terms: Terms, site: str, secret: bytes) -> bytes:
    """What a site states of its own mask's secret before; 128 secret bits stay hidden in it."""
    return hashlib.sha256(terms.context("commitment", site.encode(), secret)).digest()


def add_pair_mask(
    vector: Vector, roster: Roster, site: str, key: X25519PrivateKey, other: str, sign: int = 1
) -> None:
    """Add the mask that ``site`` shares with ``other``, in place; the other's is its negative.

    Args:
        key: masking key of ``site``.
        sign: -1 takes it off.
    """
    first, second = sorted((site, other))
    shared = pair_key(roster, key, roster.keys[other].masking, "pair-mask", first, second)
    add_mask(vector, shared, sign if site == first else -sign)


def _derive(terms: Terms, purpose: str, site: str, secret: bytes) -> bytes:
    info = terms.context(purpose, site.encode())
    return HKDF(SHA256(), 32, salt=None, info=info).derive(secret)
