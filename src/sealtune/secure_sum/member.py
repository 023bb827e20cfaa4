"""A site's side of one sum.

    member = Member(terms, "north", key)
    keys = member.advertise()
    sealed = member.share(roster)                # neighbour -> its sealed shares
    member.receive(sharers, sealed, subject)
    masked = member.mask(vector)
    signature = member.confirm(survivors)
    shares = member.unmask(signatures)           # site -> share of one of its secrets

The server is not believed: every list that it sends is checked, and what depends on one is given
out after enough sites have signed the same. Each step is taken once and in this order; what is
refused ends the sum for this site.

Trust domain: data owner.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sealtune.errors import SecureAggregationError
from sealtune.secure_sum import shares
from sealtune.secure_sum.ring import Vector, add_mask
from sealtune.secure_sum.roster import Roster, check_signature, sign_keys
from sealtune.secure_sum.secret_keys import (
    add_pair_mask,
    commitment,
    masking_key,
    own_mask_key,
)
from sealtune.secure_sum.terms import Terms


class Member:
    """One site in one sum.

    Args:
        terms: of the sum.
        site: its name.
        key: its organisation's.
    """

    def __init__(self, terms: Terms, site: str, key: Ed25519PrivateKey) -> None:
        self._terms = terms
        self._site = site
        self._key = key
        self._secrets = secrets.token_bytes(shares.SECRET), secrets.token_bytes(shares.SECRET)
        self._masking = masking_key(terms, site, self._secrets[0])
        self._sealing = X25519PrivateKey.generate()
        self._held: dict[str, tuple[bytes, bytes]] = {}  # site -> shares of its two secrets
        self._next = 0

    @contextmanager
    def _step(self, number: int) -> Iterator[None]:
        """Run step ``number``, once and in order; a failure ends the sum."""
        if self._next != number:
            raise SecureAggregationError(
                f"step {number} of sum {self._terms.number} was asked for "
                f"{'a second time' if 0 <= number < self._next else 'out of order'}"
            )
        self._next = -1
        yield
        self._next = number + 1

    def advertise(self) -> bytes:
        """Own keys, signed."""
        with self._step(0):
            own = commitment(self._terms, self._site, self._secrets[1])
            masking, sealing = self._masking.public_key(), self._sealing.public_key()
            public = masking.public_bytes_raw(), sealing.public_bytes_raw(), own
            self._own = sign_keys(self._terms, self._site, self._key, public).encode()
            return self._own

    def share(self, given: Mapping[str, bytes]) -> dict[str, bytes]:
        """Sealed shares of own secrets, for each neighbour.

        Args:
            given: the roster: site -> its signed keys.

        Raises:
            SecureAggregationError: too few sites, keys that are not theirs, or own keys altered.
        """
        with self._step(1):
            if given.get(self._site) != self._own:
                raise SecureAggregationError("the roster has other keys of this site than its own")
            self._roster = roster = Roster.read(self._terms, given)
            split = [shares.split(roster, self._site, secret) for secret in self._secrets]
            both = {holder: (split[0][holder], split[1][holder]) for holder in split[0]}
            self._held[self._site] = both.pop(self._site)
            return {
                holder: shares.seal(self._share_key(self._site, holder), b"".join(pair))
                for holder, pair in both.items()
            }

    def receive(
        self, sharers: Collection[str], sealed: Mapping[str, bytes], subject: bytes
    ) -> None:
        """Take the neighbours' shares.

        Args:
            sharers: all sites whose shares went out.
            sealed: neighbour -> what it sealed for this site.
            subject: digest of what the server gave to work on; all survivors have to have the same.

        Raises:
            SecureAggregationError: too few sites, or shares that are missing or do not open.
        """
        with self._step(2):
            self._sharers = self._check_among(sharers, self._roster.keys, "shares")
            self._subject = subject
            others = self._sharers & set(self._roster.neighbours[self._site])
            if sealed.keys() != others:
                raise SecureAggregationError("shares came of other sites than the neighbours")
            if len(others) + 1 < self._roster.threshold(self._site):
                raise SecureAggregationError(f"only {len(others)} neighbours hold own shares")
            for sender in sorted(sealed):
                key = self._share_key(sender, self._site)
                self._held[sender] = shares.unseal(key, sealed[sender], sender)

    def mask(self, vector: Vector) -> Vector:
        """The vector under own mask and those shared with each neighbour; ``vector`` is kept."""
        with self._step(3):
            masked = vector.copy()
            add_mask(masked, own_mask_key(self._terms, self._site, self._secrets[1]), 1)
            for other in sorted(self._held.keys() - {self._site}):
                add_pair_mask(masked, self._roster, self._site, self._masking, other)
            return masked

    def confirm(self, survivors: Collection[str]) -> bytes:
        """A signature over who survived; another list is never signed.

        Raises:
            SecureAggregationError: too few sites, others than before, or this one not among them.
        """
        with self._step(4):
            self._survivors = self._check_among(survivors, self._sharers, "survivors")
            return self._key.sign(self._statement(self._site))

    def unmask(self, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
        """For each site of which shares are held, one: of its own mask if it survived, of its
        masking key if it was lost.

        Args:
            signatures: survivor -> its signature over the survivors.

        Raises:
            SecureAggregationError: too few sites signed the same, or one is no survivor's.
        """
        with self._step(5):
            if not signatures.keys() <= self._survivors:
                raise SecureAggregationError("a site that did not survive signed the survivors")
            for site, signature in signatures.items():
                key, said = self._terms.keys[site], self._statement(site)
                check_signature(key, signature, said, f"the survivors as {site} was shown them")
            if len(signatures) < self._terms.signatures:
                raise SecureAggregationError(
                    f"{len(signatures)} sites signed the survivors; it takes "
                    f"{self._terms.signatures}"
                )
            return {
                site: held[1] if site in self._survivors else held[0]
                for site, held in self._held.items()
            }

    def _statement(self, site: str) -> bytes:
        lists = self._sharers, self._survivors
        return self._roster.survivors_statement(site, self._subject, *lists)

    def _check_among(
        self, given: Collection[str], earlier: Collection[str], what: str
    ) -> frozenset[str]:
        """A list of enough sites, this one among them, and none that was not there before."""
        sites = frozenset(given)
        if len(sites) < len(given) or not sites <= set(earlier) or self._site not in sites:
            raise SecureAggregationError(
                f"the list of sites with {what} has others than before, or not this one"
            )
        self._terms.check_crowd(sites)
        return sites

    def _share_key(self, sender: str, holder: str) -> bytes:
        other = holder if sender == self._site else sender
        public = self._roster.keys[other].sealing
        return shares.pair_key(self._roster, self._sealing, public, "shares", sender, holder)
