"""Who shares masks and secrets with whom: a k-regular graph in SecAgg+, all with all where few.

Everybody works the same graph out of the roster, so no server chooses anybody's neighbours. The
degree is the least that is good if a third of the sites side with the server and a fifth drop out
(after Bell et al., section 3.3, in whole numbers): but with a probability of 2^-40, no site's
secrets come into such hands and the graph of the others is in one piece; but with 2^-20, every
secret that is needed can be opened.

Trust domain: data owner, server operator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from math import comb, prod

from sealtune.secure_sum.terms import threshold

_UNSAFE, _STUCK = Fraction(1, 2**40), Fraction(1, 2**20)
_CORRUPT, _LOST = Fraction(1, 3), Fraction(1, 5)


def neighbours(sites: Iterable[str], seed: bytes, degree: int) -> Mapping[str, tuple[str, ...]]:
    """Each site's neighbours, sorted: the nearest on a ring in an order that ``seed`` draws.

    Args:
        degree: even; from as many sites on, less one, all are neighbours.
    """

    def place(site: str) -> bytes:
        return hashlib.sha256(seed + site.encode()).digest()

    ring = sorted(sites, key=place)
    half = min(degree // 2, len(ring) // 2)
    steps = [*range(-half, 0), *range(1, half + 1)]
    return {
        site: tuple(sorted({ring[(at + step) % len(ring)] for step in steps} - {site}))
        for at, site in enumerate(ring)
    }


@cache
def degree(sites: int) -> int:
    """The least even degree for so many sites; all are neighbours where none is enough."""
    for k in range(2, sites - 1, 2):
        if _serves(sites, k):
            return k
    return sites + sites % 2


def _serves(sites: int, k: int) -> bool:
    corrupt, lost = int(sites * _CORRUPT), int(sites * _LOST)
    need = threshold(k + 1)  # of a site and its neighbours
    caught = sum(_draw(sites - 1, corrupt, k, n) for n in range(need, k + 1))
    # the site itself may be lost
    stuck = sum(_draw(sites - 1, lost, k, n) for n in range(k - need + 1, k + 1))
    # half of a site's neighbours stand in a row
    torn = prod(Fraction(max(corrupt + lost - i, 0), sites - i) for i in range(k // 2))
    return sites * (caught + torn) <= _UNSAFE and sites * stuck <= _STUCK


def _draw(everybody: int, marked: int, drawn: int, found: int) -> Fraction:
    """Probability that of so many ``drawn``, exactly ``found`` are among those ``marked``."""
    hits = comb(marked, found) * comb(everybody - marked, drawn - found)
    return Fraction(hits, comb(everybody, drawn))
