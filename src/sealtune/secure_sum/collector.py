"""The server's side of one sum: takes what sites send, stage by stage, and takes the masks off.

``check_…`` reads one site's answer and changes nothing, and what it raises is that site's fault
alone; ``take_…`` takes in what it returned. A site that fails to answer a stage is just not taken.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from sealtune.errors import SecureAggregationError
from sealtune.secure_sum import shares
from sealtune.secure_sum.ring import Vector, add_mask, from_bytes
from sealtune.secure_sum.roster import SIGNATURE, Roster, SumKeys, check_signature, read_keys
from sealtune.secure_sum.secret_keys import (
    add_pair_mask,
    commitment,
    masking_key,
    own_mask_key,
)
from sealtune.secure_sum.terms import Terms

_Fits = Callable[[str, bytes], bool]


class Collector:
    """One sum.

    Args:
        terms: of the sum.
        length: of the vectors.
        subject: digest of what all sites were given to work on.

    Attributes:
        sealed: site -> neighbour -> shares that it sealed for it.
        survivors: sites whose vectors are in the sum.
        signatures: survivor -> its signature over the survivors.
    """

    def __init__(self, terms: Terms, length: int, subject: bytes) -> None:
        self._terms = terms
        self._subject = subject
        self._keys: dict[str, SumKeys] = {}
        self._sum: Vector = np.zeros(length, np.uint64)
        self._given: dict[str, dict[str, bytes]] = {}  # site -> holder -> share of its secret
        self.sealed: dict[str, Mapping[str, bytes]] = {}
        self.survivors: set[str] = set()
        self.signatures: dict[str, bytes] = {}

    def check_keys(self, site: str, data: bytes) -> SumKeys:
        """A site's keys."""
        return read_keys(self._terms, site, data)

    def take_keys(self, site: str, keys: SumKeys) -> None:
        """The site is on the roster."""
        self._keys[site] = keys

    @cached_property
    def roster(self) -> Roster:
        """Of all whose keys were taken before it is first asked for."""
        return Roster(self._terms, dict(self._keys))

    def check_shares(self, site: str, sealed: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """A site's sealed shares: one for each neighbour."""
        sizes = {len(one) for one in sealed.values()}
        if sealed.keys() != set(self.roster.neighbours[site]) or sizes != {shares.SEALED}:
            raise SecureAggregationError("the site sent shares to others than its neighbours")
        return sealed

    def take_shares(self, site: str, sealed: Mapping[str, bytes]) -> None:
        """Keep them for the neighbours."""
        self.sealed[site] = sealed

    def sealed_for(self, site: str) -> dict[str, bytes]:
        """Neighbour -> what it sealed for this site."""
        there = [other for other in self.roster.neighbours[site] if other in self.sealed]
        return {sender: self.sealed[sender][site] for sender in there}

    def check_vector(self, _site: str, data: bytes | memoryview) -> Vector:
        """A masked vector."""
        return from_bytes(data, len(self._sum))

    def take_vector(self, site: str, vector: Vector) -> None:
        """It is in the sum."""
        np.add(self._sum, vector, out=self._sum)
        self.survivors.add(site)

    def check_signature(self, site: str, signature: bytes) -> bytes:
        """A survivor's signature over the survivors."""
        if len(signature) != SIGNATURE:
            raise SecureAggregationError(f"a signature of {len(signature)} bytes")
        said = self.roster.survivors_statement(site, self._subject, self.sealed, self.survivors)
        check_signature(self._terms.keys[site], signature, said, "the survivors")
        return signature

    def take_signature(self, site: str, signature: bytes) -> None:
        """Keep it for the others."""
        self.signatures[site] = signature

    def check_given(self, site: str, given: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """A survivor's shares: one of each site of which it holds some."""
        wanted = {site, *self.sealed_for(site)}
        if given.keys() != wanted or any(len(one) != shares.SECRET for one in given.values()):
            raise SecureAggregationError("the site gave other shares than it holds")
        return given

    def take_given(self, site: str, given: Mapping[str, bytes]) -> None:
        """Keep them."""
        for owner, share in given.items():
            self._given.setdefault(owner, {})[site] = share

    def result(self) -> Vector:
        """The sum of the survivors' vectors; asked for once.

        Raises:
            SecureAggregationError: too few shares came, or too many wrong ones.
        """
        for site in sorted(self.survivors):
            secret = self._secret(site, self._is_own_mask)
            add_mask(self._sum, own_mask_key(self._terms, site, secret), -1)
        for site in sorted(self.sealed.keys() - self.survivors):
            secret = self._secret(site, self._is_masking_key)
            key = masking_key(self._terms, site, secret)
            # the other's half of the shared mask stands in the sum: add this one's
            for other in self.survivors & set(self.roster.neighbours[site]):
                add_pair_mask(self._sum, self.roster, site, key, other)
        return self._sum

    def _secret(self, site: str, fits: _Fits) -> bytes:
        given = self._given.get(site, {})
        return shares.join(self.roster, site, given, lambda secret: fits(site, secret))

    def _is_own_mask(self, site: str, secret: bytes) -> bool:
        return commitment(self._terms, site, secret) == self._keys[site].commitment

    def _is_masking_key(self, site: str, secret: bytes) -> bool:
        key = masking_key(self._terms, site, secret).public_key()
        return key.public_bytes_raw() == self._keys[site].masking
