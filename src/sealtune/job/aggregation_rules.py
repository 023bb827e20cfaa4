"""What is known of each rule of aggregation before one is loaded, and what goes with it.

Refused where settings are parsed: ``validate``, ``job build``, ``run`` and every program alike.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec


@dataclass(frozen=True)
class RuleFacts:
    """A rule, as far as settings have to agree with it.

    Attributes:
        changes_basis: its result's factors stand in a basis of their own in each round.
    """

    changes_basis: bool = False


KNOWN_RULES: dict[str, RuleFacts] = {
    "exact": RuleFacts(changes_basis=True),
    "fedavg": RuleFacts(),
}


def aggregation_problems(aggregation: AggregationSpec | None) -> list[Problem]:
    """Faults of ``[aggregation]``; a section that is itself faulty is None."""
    if aggregation is None:
        return []
    rule = KNOWN_RULES.get(aggregation.rule)
    if rule is None:
        known = ", ".join(sorted(KNOWN_RULES))
        words = f"is '{aggregation.rule}', which is none of: {known}"
        return [Problem("aggregation.rule", words)]
    problems = []
    if rule.changes_basis and aggregation.server_optimizer != "none":
        words = (
            f"is '{aggregation.server_optimizer}', whose means over rounds make no sense with "
            f"aggregation.rule = '{aggregation.rule}': the factors change their basis each round"
        )
        problems.append(Problem("aggregation.server_optimizer", words))
    return problems
