"""Which sites train in a round, where not all do: a sample that follows from seed and round.

Sites are ordered by SHA-256 over seed, round and name. The first of each organisation are taken
until ``least`` organisations are in, then the first of the rest. So every sample can be a cohort,
and where each site is an organisation of its own, every sample is equally likely. Nothing has to be
stored: a resumed run draws the same. The seed is public, so the draw hides nobody.

Trust domain: server enclave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sealtune.job.manifest import Manifest


def asked_in(manifest: Manifest, round_: int) -> tuple[str, ...]:
    """The sites of a signed job that train in a round."""
    settings = manifest.settings
    organisations = {site: manifest.participant(site).org for site in settings.sites.names}
    return draw(organisations, settings.asked, manifest.min_cohort, settings.job.seed, round_)


def draw(
    organisations: Mapping[str, str], count: int, least: int, seed: int, round_: int
) -> tuple[str, ...]:
    """``count`` sites of at least ``least`` organisations, in the order given.

    Args:
        organisations: site -> who answers for it.
        count: at least ``least``.
        least: at most as many as there are organisations.
    """

    def place(site: str) -> bytes:
        return hashlib.sha256(f"participation/{seed}/{round_}/{site}".encode()).digest()

    ordered = sorted(organisations, key=place)
    first = {organisations[site]: site for site in reversed(ordered)}  # of each organisation
    leading = [site for site in ordered if first[organisations[site]] == site][:least]
    chosen = (leading + [site for site in ordered if site not in leading])[:count]
    return tuple(site for site in organisations if site in chosen)
