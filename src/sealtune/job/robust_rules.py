"""How many sites the rules that bear attackers need, and whose settings are whose.

Trust domain: every process; settings only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.sections import SitesSpec

MEDIAN, TRIMMED_MEAN, MULTI_KRUM = "median", "trimmed-mean", "multi-krum"
_OWNERS = {"trim": TRIMMED_MEAN, "attackers": MULTI_KRUM}  # setting -> the rule that has it
_ALMOST = 1e-9  # 0.29 of 100 sites are 29, whatever binary fractions make of it


def left_out(trim: float, sites: int) -> int:
    """How many of ``sites`` a trimmed mean leaves out at each end; never all."""
    return min(math.floor(trim * sites + _ALMOST), (sites - 1) // 2)


def most_attackers(sites: int) -> int:
    """How many attackers multi-Krum bears among so many: Blanchard et al., proposition 2."""
    return max(0, (sites - 3) // 2)


def fewest_sites(aggregation: AggregationSpec, refused: int = 0) -> int:
    """How many updates a round needs so that the rule keeps what it promises.

    The median of two is their mean; a trimmed mean has to leave somebody out; multi-Krum needs
    2 f + 2 < n (Blanchard et al., NeurIPS 2017, proposition 2). Each update that was refused is one
    attacker less to bear.
    """
    left = max(0, aggregation.attackers - refused)
    needed = {
        MEDIAN: 3,
        TRIMMED_MEAN: max(3, math.ceil((1 - _ALMOST) / aggregation.trim)),
        MULTI_KRUM: 2 * left + 3 + refused,
    }.get(aggregation.rule, 1)
    return max(1, needed - refused)


def robust_disagreements(
    sites: SitesSpec | None, aggregation: AggregationSpec | None
) -> list[Problem]:
    """Faults between sections, each with its key; a section that is itself faulty is None."""
    return [] if aggregation is None else list(_faults(sites, aggregation))


def _faults(sites: SitesSpec | None, aggregation: AggregationSpec) -> Iterator[Problem]:
    for key, owner in _OWNERS.items():
        if aggregation.rule != owner and aggregation.changes(key):
            value, rule = getattr(aggregation, key), aggregation.rule
            words = f'is {value}, but only the rule "{owner}" has it; the rule is {rule}'
            yield Problem(f"aggregation.{key}", words)
    if sites is None:
        return
    needed = fewest_sites(aggregation)
    asked = aggregation.asked(len(sites.names))
    if asked < needed:
        owned = [
            f"{k} = {getattr(aggregation, k)}" for k, o in _OWNERS.items() if o == aggregation.rule
        ]
        name = " with ".join([f'"{aggregation.rule}"', *owned])
        yield Problem(
            "aggregation.rule",
            f"is {name}, which needs the updates of {needed} sites, but a round asks {asked}: add "
            "sites, or see aggregation.participation",
        )
