"""Accepted evidence of a job, from what its parties' cards propose for their own roles.

Trust domain: whoever builds a manifest; every organisation compares what it means to accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.attest.policy import AppraisalPolicy, parse_policy
from sealtune.attest.strength import check_strength
from sealtune.errors import ManifestError, Problem
from sealtune.job.card import Card, ServerCard, SiteCard
from sealtune.job.method import Method

_LISTS = ("measurements", "signers")


def policies_of(
    rules: Method, cards: Mapping[str, Card]
) -> tuple[dict[str, AppraisalPolicy], list[Problem]]:
    """For each role whose cards propose it, what is accepted; and what is wrong with that.

    Args:
        rules: of the job's method.
        cards: file -> card.
    """
    policies: dict[str, AppraisalPolicy] = {}
    problems: list[Problem] = []
    for role in rules.attested:
        proposed: dict[str, AppraisalPolicy] = {}
        for file, card in cards.items():
            if not isinstance(card, SiteCard | ServerCard) or card.role != role:
                continue
            if card.evidence is None or card.evidence.policy is None:
                continue
            try:
                proposed[file] = parse_policy(card.evidence.policy, "policy")
                check_strength(proposed[file])
            except ManifestError as error:
                problems.append(Problem(file, error.message))
        joined, others = join_policies(proposed)
        problems += [
            Problem(file, f"proposes another policy of {role} evidence than {next(iter(proposed))}")
            for file in others
        ]
        if joined is not None:
            policies[role] = joined
    return policies, problems


def join_policies(
    given: Mapping[str, AppraisalPolicy],
) -> tuple[AppraisalPolicy | None, list[str]]:
    """One policy that accepts what each of the ``given`` accepts, where they differ in lists of
    code and signers only.

    Args:
        given: who proposes it -> a policy of the same role.

    Returns:
        the policy, or None where there is none; and who proposes another than the first.
    """
    policies = list(given.items())
    if not policies:
        return None, []
    joined, others = policies[0][1], []
    for who, policy in policies[1:]:
        if _without_lists(policy) != _without_lists(joined):
            others.append(who)
            continue
        kinds = {
            kind: one.model_copy(update=_union(one, policy.kinds[kind]))
            for kind, one in joined.kinds.items()
        }
        joined = joined.model_copy(update={"kinds": kinds})
    return joined, others


def _union(one: Any, other: Any) -> dict[str, Any]:
    changes = {}
    for name in _LISTS:
        here, there = getattr(one, name), getattr(other, name)
        changes[name] = here if here == "any" else tuple(sorted({*here, *there}))
    return changes


def _without_lists(policy: AppraisalPolicy) -> Any:
    content: Any = policy.model_dump(mode="json")
    for kind in content["kinds"].values():
        for name in _LISTS:
            kind[name] = "any" if kind[name] == "any" else "listed"
    return content
