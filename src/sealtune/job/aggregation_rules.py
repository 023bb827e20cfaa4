"""What is known of each rule of aggregation before one is loaded, and what goes with it.

Refused where settings are parsed: ``validate``, ``job build``, ``run`` and every program alike.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.robust_rules import MEDIAN, MULTI_KRUM, TRIMMED_MEAN
from sealtune.job.sections import JobSpec


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
    MEDIAN: RuleFacts(),
    MULTI_KRUM: RuleFacts(),
    TRIMMED_MEAN: RuleFacts(),
}


_ADAPTIVE = ("fedadam", "fedyogi")
# key -> the key that has to have one of these values, or it would be read by nobody
_ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "server_learning_rate": ("server_optimizer", ("fedavgm", *_ADAPTIVE)),
    "server_momentum": ("server_optimizer", ("fedavgm", *_ADAPTIVE)),
    "server_second_momentum": ("server_optimizer", _ADAPTIVE),
    "server_adaptivity": ("server_optimizer", _ADAPTIVE),
}


def aggregation_problems(job: JobSpec | None, aggregation: AggregationSpec | None) -> list[Problem]:
    """Faults of ``[aggregation]``; a section that is itself faulty is None."""
    if aggregation is None:
        return []
    if job is not None and job.rules.server_trains:
        return [
            Problem(f"aggregation.{key}", f"is for sites that train; a {job.method} job's do not")
            for key in AggregationSpec.model_fields
            if aggregation.changes(key)
        ]
    problems = []
    rule, optimizer = KNOWN_RULES.get(aggregation.rule), aggregation.server_optimizer
    if rule is None:
        known = ", ".join(sorted(KNOWN_RULES))
        words = f"is '{aggregation.rule}', which is none of: {known}"
        problems.append(Problem("aggregation.rule", words))
    elif rule.changes_basis and optimizer != "none":
        words = (
            f"is '{optimizer}', whose means over rounds mean nothing with aggregation.rule = "
            f"'{aggregation.rule}': the factors stand in another basis after each round"
        )
        problems.append(Problem("aggregation.server_optimizer", words))
    if optimizer in _ADAPTIVE and aggregation.server_learning_rate is None:
        words = (
            f"is missing: {optimizer} moves each number by about so much in a round, however small "
            "the updates are; try 0.01"
        )
        problems.append(Problem("aggregation.server_learning_rate", words))
    for key, (other, values) in _ONLY_WITH.items():
        if aggregation.changes(key) and getattr(aggregation, other) not in values:
            words = (
                f"is {getattr(aggregation, key)}, which only aggregation.{other} = "
                f"{' or '.join(repr(one) for one in values)} reads; remove it"
            )
            problems.append(Problem(f"aggregation.{key}", words))
    return problems
