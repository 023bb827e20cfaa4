"""Which sites pull where the others do not, and what their rows count for that.

A site's agreement in a round is the cosine with its update that at least half of the others reach:
what a few of them send neither raises nor lowers it beyond that of honest ones. It is held against
the median agreement of the same rounds, later rounds counting more. A site far below it is an
outlier; with ``aggregation.outliers = "discount"`` its rows count a sixteenth in the next round:
not nothing, so that no aggregate is of fewer organisations than the cohort. What decides is always
past, so updates still stream through. It takes a job of five sites: of fewer, two that are
alike would decide over an honest one that has other rows.

A site of a lower rank has a part of the numbers, in which all of its update lies and about as large
a part of the others' squares: its cosine with them is that among the shared numbers times the root
of that part, by which it is divided, and with it what a sketch's cosine is off by.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median_high, median_low
from typing import Any

import numpy as np

from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.sketch import WIDTH, Sketch, Sketcher, cosines

Standing = tuple[float, float]  # a site's agreement, and what is usual in the same rounds
_MEMORY = 0.5  # share of the past in a standing
_FAR = 0.5  # of what is usual
_NOISE = 3 / math.sqrt(WIDTH)  # three deviations of a sketch's cosine
_DISCOUNT = 16
_FEWEST = 3  # of two sites, neither is the one that is far out
_DISCOUNTS_FROM = 5  # sites: 2 f + 3 bear f that attack, as for multi-krum


class Agreement:
    """The sites' directions in one round.

    Args:
        sketcher: makes the sketches.
        standings: site -> standing that the round before left.
        sizes: site -> how many numbers its update has.
    """

    def __init__(
        self, sketcher: Sketcher, standings: Mapping[str, Standing], sizes: Mapping[str, int]
    ) -> None:
        self._sketcher = sketcher
        self._sizes = sizes
        self._noise = {site: _NOISE / _usual_part(site, sizes) for site in sizes}
        self._standings = dict(standings)
        self._sketches: dict[str, Sketch] = {}

    def rows(self, site: str, signed: int) -> int:
        """How many rows a site counts in this round, by what it sent in those before."""
        discounts = len(self._sizes) >= _DISCOUNTS_FROM and self._is_far(site)
        return max(1, signed // _DISCOUNT) if discounts else signed

    def note(self, site: str, update: Tensors) -> None:
        """A site's update is part of the round."""
        self._sketches[site] = self._sketcher.sketch(update)

    def close(self) -> tuple[dict[str, Standing], dict[str, dict[str, Any]]]:
        """Standings for the next round, and each site's fields of ``SiteRound`` in this one."""
        if len(self._sketches) < _FEWEST:
            return self._standings, {site: {"outlier": False} for site in self._sketches}
        found = agreements(self._sketches, self._sizes)
        usual = median_high(found.values())
        for site, own in found.items():
            past = self._standings.get(site, (own, usual))
            self._standings[site] = (_blend(past[0], own), _blend(past[1], usual))
        return self._standings, {
            site: {"outlier": self._is_far(site), "agreement": round(own, 4)}
            for site, own in found.items()
        }

    def _is_far(self, site: str) -> bool:
        own, usual = self._standings.get(site, (0.0, 0.0))
        return own < _FAR * usual - self._noise[site]


def agreements(sketches: Mapping[str, Sketch], sizes: Mapping[str, int]) -> dict[str, float]:
    """Agreement of each of at least two sites, from the sketches and sizes of their updates."""
    sites = sorted(sketches)
    part = np.array([[_part(sizes[one], sizes[other]) for other in sites] for one in sites])
    between = np.clip(cosines(np.stack([sketches[site] for site in sites])) / part, -1.0, 1.0)
    others = between[~np.eye(len(sites), dtype=bool)].reshape(len(sites), -1)  # [n, n - 1]
    middle = others.shape[1] // 2
    return dict(zip(sites, np.sort(others, axis=1)[:, middle].tolist(), strict=True))


def _part(one: int, other: int) -> float:
    """Of a cosine among the numbers that two updates share, what is left of it among all."""
    return math.sqrt(min(one, other) / max(one, other))


def _usual_part(site: str, sizes: Mapping[str, int]) -> float:
    others = [_part(sizes[site], size) for other, size in sizes.items() if other != site]
    return median_low(others) if others else 1.0


def _blend(past: float, new: float) -> float:
    return _MEMORY * past + (1 - _MEMORY) * new
