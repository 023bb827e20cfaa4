"""Sites and a server in one process, and a server that does as it likes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.secure_sum.collector import Collector
from sealtune.secure_sum.member import Member
from sealtune.secure_sum.ring import Vector, to_bytes
from sealtune.secure_sum.terms import Terms

JOB = bytes(range(48))
SUBJECT = b"s" * 32
NAMES = ("east", "north", "river", "south", "west")
STAGES = ("keys", "shares", "vector", "signature", "given")


def keys_of(sites: Collection[str]) -> dict[str, Ed25519PrivateKey]:
    """A key for each site; the same ones whenever asked."""
    return {
        site: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        for number, site in enumerate(sorted(sites), 1)
    }


def make_terms(
    sites: Collection[str] = NAMES, *, number: int = 1, least: int = 3, **changes: Any
) -> Terms:
    """Each site is an organisation of its own."""
    values: dict[str, Any] = {
        "job_id": JOB,
        "number": number,
        "keys": {site: key.public_key() for site, key in keys_of(sites).items()},
        "organisations": {site: f"org-{site}" for site in sites},
        "least_sites": least,
        "least_organisations": least,
    }
    return Terms(**values | changes)


def random_vectors(sites: Collection[str], length: int, seed: int = 0) -> dict[str, Vector]:
    """Vectors over the whole ring."""
    generator = np.random.default_rng(seed)
    return {site: generator.integers(0, 2**64, length, np.uint64) for site in sites}


@dataclass
class Room:
    """One sum, stage by stage.

    Attributes:
        lost: stage -> sites that do not answer from there on.
        masked: site -> the vector that the server saw.
        given: site -> the shares that it gave out.
    """

    terms: Terms
    vectors: Mapping[str, Vector]
    lost: Mapping[str, Collection[str]] = field(default_factory=dict)
    masked: dict[str, Vector] = field(default_factory=dict)
    given: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keys = keys_of(self.terms.keys)
        self.members = {site: Member(self.terms, site, keys[site]) for site in self.vectors}
        length = len(next(iter(self.vectors.values())))
        self.server = Collector(self.terms, length, SUBJECT)
        self._gone: set[str] = set()

    def run(self, until: str = "given") -> None:
        """All stages up to one."""
        for stage in STAGES:
            self._gone |= set(self.lost.get(stage, ()))
            getattr(self, f"_{stage}")()
            if stage == until:
                return

    def sum(self) -> Vector:
        """The whole of it."""
        self.run()
        return self.server.result()

    def here(self, sites: Collection[str]) -> list[str]:
        """Of these, those that still answer."""
        return [site for site in sites if site not in self._gone]

    def _keys(self) -> None:
        for site in self.here(self.members):
            data = self.members[site].advertise()
            self.server.take_keys(site, self.server.check_keys(site, data))

    def _shares(self) -> None:
        for site in self.here(self.server.roster.keys):
            sealed = self.members[site].share(self.server.roster.encoded)
            self.server.take_shares(site, self.server.check_shares(site, sealed))

    def _vector(self) -> None:
        for site in self.here(self.server.sealed):
            member = self.members[site]
            member.receive(list(self.server.sealed), self.server.sealed_for(site), SUBJECT)
            self.masked[site] = member.mask(self.vectors[site])
            data = to_bytes(self.masked[site])
            self.server.take_vector(site, self.server.check_vector(site, data))

    def _signature(self) -> None:
        for site in self.here(self.server.survivors):
            signature = self.members[site].confirm(sorted(self.server.survivors))
            self.server.take_signature(site, self.server.check_signature(site, signature))

    def _given(self) -> None:
        for site in self.here(self.server.signatures):
            self.given[site] = self.members[site].unmask(self.server.signatures)
            self.server.take_given(site, self.server.check_given(site, self.given[site]))


def plain_sum(vectors: Mapping[str, Vector], sites: Collection[str]) -> Vector:
    """Without any masks, in Python's own numbers."""
    columns = zip(*(vectors[site].tolist() for site in sites), strict=True)
    return np.array([sum(column) % 2**64 for column in columns], np.uint64)
