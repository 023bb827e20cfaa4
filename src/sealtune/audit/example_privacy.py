"""Differential privacy of rows in an audit: which budget, what it allows, and what to say of it.

A budget bounds an attack and does not bring it to the success of a guess: under epsilon and delta
no test finds more than ``e^epsilon f + delta`` of the members where it accuses a share f of the
others (Wasserman and Zhou 2010, J. Am. Stat. Assoc. 105; Kairouz et al., arXiv 1311.0776). So a
success above chance and below that is a limit; one above it means that the noise fails.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sealtune.audit import last_layer
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.subject import Subject
from sealtune.job.federated_sections import PrivacySpec

SHOWN = tuple(PrivacySpec(unit="example", epsilon=one) for one in (8.0, 1.0))


@dataclass(frozen=True)
class Measured:
    """One attack's success without noise, and with that of each of ``budgets``.

    Attributes:
        variant, measure, chance: as in ``Finding``.
        plain: without noise.
        noisy: with it.
        allowed: the most that a test may reach under epsilon and delta.
        notes: what else there is to say of each of ``noisy``.
    """

    variant: str
    measure: str
    chance: float
    plain: Rate
    noisy: Sequence[Rate]
    allowed: Callable[[float, float], float]
    notes: Sequence[str]


def budgets(subject: Subject) -> tuple[PrivacySpec, ...]:
    """The job's, or where it has none what is shown beside it."""
    own = subject.job.privacy
    return SHOWN if own.unit is None else (own,)


def applies(subject: Subject, least_rows: int) -> str:
    """Why rows of this job are attacked otherwise, or not at all; empty: they are attacked."""
    job, rows = subject.job, sum(len(data.train) for data in subject.sites.values())
    if job.privacy.unit == "site":
        return 'privacy.unit is "site": noise hides whole sites, and this attack looks for rows'
    few = f"{rows} training rows are too few: it takes {least_rows}" if rows < least_rows else ""
    return last_layer.applies(subject) or few


def stated(subject: Subject, epsilon: float) -> str:
    """A budget in the name of a variant."""
    none = "" if subject.job.privacy.unit else " (this run has none)"
    return f"epsilon {epsilon:g}{none}"


def findings(subject: Subject, attack: str, measured: Measured) -> list[Finding]:
    """One of a job with a budget; of a job without: its own limit, and what budgets would give."""
    found = []
    if subject.job.privacy.unit is None:
        note = "nothing hides what the model memorised of its rows: set [privacy]"
        found.append(_finding(attack, measured, measured.variant, None, True, note))
    every = zip(budgets(subject), measured.noisy, measured.notes, strict=True)
    for privacy, noisy, note in every:
        epsilon = privacy.epsilon or 0.0
        most = measured.allowed(epsilon, privacy.delta)
        limit = measured.chance < noisy.low <= most
        variant = f"{measured.variant}, {stated(subject, epsilon)}"
        words = f"{note}; epsilon {epsilon:g} allows {most:.2g}".removeprefix("; ")
        found.append(_finding(attack, measured, variant, noisy, limit, words))
    return found


def _finding(
    attack: str, measured: Measured, variant: str, noisy: Rate | None, limit: bool, note: str
) -> Finding:
    return Finding(
        attack, variant, measured.measure, measured.chance, measured.plain, noisy, limit, note
    )


def allowed_share(accused: float) -> Callable[[float, float], float]:
    """Of members found, where so large a share of the others is accused."""

    def most(epsilon: float, delta: float) -> float:
        grown = math.exp(epsilon) * accused + delta
        return min(1.0, grown, 1 - math.exp(-epsilon) * (1 - delta - accused))

    return most


def allowed_auc(epsilon: float, delta: float) -> float:
    """Area under the highest ROC curve: two lines that meet on the falling diagonal, then 1."""
    corner = (1 - delta) / (1 + math.exp(epsilon))
    first = corner * (delta + 1 - corner) / 2
    second = (1 - delta - corner) * (2 - corner) / 2
    return first + second + delta


def allowed_exposure(classes: int, repeats: int) -> Callable[[float, float], float]:
    """Mean bits of exposure of a secret label among so many classes.

    Without its row, a guess of k classes holds the label with probability k / C; with it, and with
    ``repeats`` copies of it, this grows as the budget of so many rows allows.
    """

    def most(epsilon: float, delta: float) -> float:
        factor = math.exp(repeats * epsilon)
        loss = sum(math.exp(i * epsilon) for i in range(repeats)) * delta
        ranks = range(1, classes + 1)
        reached = [0.0, *(min(1.0, factor * k / classes + loss) for k in ranks)]
        bits = (math.log2(classes / k) for k in ranks)
        return sum((b - a) * gained for (a, b), gained in zip(pairwise(reached), bits, strict=True))

    return most
