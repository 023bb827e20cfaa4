"""What one sum is about, and how many sites it has to come from.

Trust domain: data owner, server operator.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealtune.errors import SecureAggregationError
from sealtune.frames import length_prefixed
from sealtune.job.method import more_than_two_thirds

LEAST = 3  # sites and organisations: of a sum of two, each knows the other's part
_NUMBER = struct.Struct("<Q")


def threshold(holders: int) -> int:
    """How many of so many holders' shares open a secret, or sites' signatures confirm a list.

    As long as fewer than a third of the sites side with the server, no two lists of survivors get
    enough signatures, and nobody's two secrets get enough shares.
    """
    return more_than_two_thirds(holders)


@dataclass(frozen=True)
class Terms:
    """One sum of one job.

    Attributes:
        job_id: 48 bytes.
        number: of the sum within the job; a site takes part in each once.
        keys: site -> the key that signs for it, of all sites of the job.
        organisations: site -> who answers for it.
        least_sites: that a sum comes from.
        least_organisations: that these sites are of.
    """

    job_id: bytes
    number: int
    keys: Mapping[str, Ed25519PublicKey]
    organisations: Mapping[str, str]
    least_sites: int
    least_organisations: int

    @property
    def quorum(self) -> int:
        """Sites that every stage needs: those of a sum, and as many as must sign survivors."""
        return max(self.least_sites, self.signatures, LEAST)

    @property
    def signatures(self) -> int:
        """Sites that have to sign the same survivors."""
        return threshold(len(self.keys))

    def check_crowd(self, sites: Collection[str]) -> None:
        """Raise SecureAggregationError if these sites are too few for a sum, or not the job's."""
        unknown = sorted(set(sites) - self.keys.keys())
        if unknown:
            raise SecureAggregationError(f"the job has no site {unknown[0][:40]!r}")
        organisations = {self.organisations[site] for site in sites}
        least = max(self.least_organisations, LEAST)
        if len(sites) < self.quorum or len(organisations) < least:
            raise SecureAggregationError(
                f"a sum of {len(sites)} sites of {len(organisations)} organisations says too much "
                f"of each: needed are {self.quorum} sites of {least} organisations"
            )

    def context(self, purpose: str, *parts: bytes) -> bytes:
        """What a key or signature of this sum is bound to; one byte string for one meaning."""
        domain = f"sealtune/secure-sum/v1/{purpose}".encode()
        return length_prefixed(domain, self.job_id, _NUMBER.pack(self.number), *parts)
