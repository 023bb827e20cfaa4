"""Each site's keys for one sum, signed by its organisation, and the list of all of them.

Bytes of one site's: masking key 32 | sealing key 32 | commitment 32 | signature 64.

Trust domain: data owner, server operator.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealtune.errors import SecureAggregationError
from sealtune.frames import length_prefixed
from sealtune.secure_sum.graph import degree, neighbours
from sealtune.secure_sum.terms import Terms, threshold

_LAYOUT = struct.Struct("<32s32s32s64s")
SIZE = _LAYOUT.size
SIGNATURE = 64


@dataclass(frozen=True)
class SumKeys:
    """One site's keys for one sum.

    Attributes:
        masking: X25519 key of the masks that it shares with others.
        sealing: X25519 key under which others' shares reach it.
        commitment: SHA-256 that tells whether the seed of its own mask was put together rightly.
        signature: of its organisation.
    """

    masking: bytes
    sealing: bytes
    commitment: bytes
    signature: bytes

    def encode(self) -> bytes:
        """160 bytes."""
        return _LAYOUT.pack(self.masking, self.sealing, self.commitment, self.signature)


def sign_keys(
    terms: Terms, site: str, key: Ed25519PrivateKey, public: tuple[bytes, bytes, bytes]
) -> SumKeys:
    """A site's keys, signed: ``public`` are masking key, sealing key and commitment."""
    return SumKeys(*public, key.sign(_statement(terms, site, *public)))


def read_keys(terms: Terms, site: str, data: bytes) -> SumKeys:
    """A site's keys, if its organisation signed them for this sum.

    Raises:
        SecureAggregationError: it did not.
    """
    if len(data) != SIZE:
        raise SecureAggregationError(f"the keys of {site} have {len(data)} bytes, not {SIZE}")
    keys = SumKeys(*_LAYOUT.unpack(data))
    said = _statement(terms, site, keys.masking, keys.sealing, keys.commitment)
    check_signature(terms.keys[site], keys.signature, said, f"the keys of {site}")
    return keys


def check_signature(key: Ed25519PublicKey, signature: bytes, said: bytes, what: str) -> None:
    """Raise SecureAggregationError unless ``key`` signed what was said."""
    try:
        key.verify(signature, said)
    except InvalidSignature as error:
        raise SecureAggregationError(
            f"{what} are not signed by its organisation's key for this sum",
            hint="somebody puts other keys or lists in, or sends those of another round",
        ) from error


def _statement(terms: Terms, site: str, *parts: bytes) -> bytes:
    return terms.context("keys", site.encode(), *parts)


@dataclass(frozen=True)
class Roster:
    """All sites that take part in one sum, with their keys.

    Attributes:
        terms: of the sum.
        keys: site -> its keys.
    """

    terms: Terms
    keys: Mapping[str, SumKeys]

    @classmethod
    def read(cls, terms: Terms, given: Mapping[str, bytes]) -> Roster:
        """Check a roster.

        Raises:
            SecureAggregationError: too few sites, unknown ones, or keys that are not theirs.
        """
        terms.check_crowd(given)
        return cls(terms, {site: read_keys(terms, site, data) for site, data in given.items()})

    @cached_property
    def digest(self) -> bytes:
        """32 bytes over all keys: the same for all who were shown the same roster."""
        parts = (part for site in sorted(self.keys) for part in (site.encode(), self.encoded[site]))
        return hashlib.sha256(self.terms.context("roster", *parts)).digest()

    @cached_property
    def encoded(self) -> Mapping[str, bytes]:
        """As ``read`` takes it."""
        return {site: keys.encode() for site, keys in self.keys.items()}

    @cached_property
    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """With whom each site shares masks and secrets."""
        return neighbours(self.keys, self.digest, degree(len(self.keys)))

    def holders(self, site: str) -> list[str]:
        """Who holds shares of a site's secrets, in their order: itself and its neighbours."""
        return sorted((site, *self.neighbours[site]))

    def threshold(self, site: str) -> int:
        """How many of the holders open a secret of ``site``."""
        return threshold(len(self.holders(site)))

    def survivors_statement(
        self, site: str, subject: bytes, sharers: Iterable[str], survivors: Iterable[str]
    ) -> bytes:
        """What ``site`` signs before it gives shares out.

        Args:
            subject: digest of what all were given to work on.
            sharers: sites whose shares went out.
            survivors: those of them whose vectors are in the sum.
        """
        lists = (length_prefixed(*map(str.encode, sorted(names))) for names in (sharers, survivors))
        return self.terms.context("survivors", site.encode(), self.digest, subject, *lists)
