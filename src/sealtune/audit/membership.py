"""Membership inference on the released adapter: was this row among the training rows?

Loss threshold (Yeom et al., arXiv 1709.01604): a row that the model answers surely was. LiRA
(Carlini et al., arXiv 2112.03570, online, variances pooled): shadow adapters trained on random
halves of the same rows tell how each row is answered where it was in, and where it was out.

Who has the adapter can do this: the attacker knows the rows that are asked for, how the job trains,
and has rows like them. One site has all members here; in a mean of several sites each counts less.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sealtune.audit import example_privacy
from sealtune.audit.adapter import Schedule, Trainer, frozen, log_odds_of
from sealtune.audit.attack import Attack, Report
from sealtune.audit.example_privacy import Measured, allowed_auc, allowed_share, budgets, findings
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.last_layer import States
from sealtune.audit.own_adapter import own_findings
from sealtune.audit.statistics import auc, bootstrap
from sealtune.audit.subject import Subject
from sealtune.data.site import Example
from sealtune.model.private_gradients import Noise

NAME = "membership"
ROWS, LEAST_ROWS, SHADOWS = 600, 100, 15
STEPS, BATCHES, RATE = 60, 5, 5e-3  # steps in all, in an epoch; enough to learn rows by heart
ACCUSED = 0.01  # of those who are not members

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Trained:
    """Several adapters, each trained on a random half of the rows.

    Attributes:
        log_odds: of each row's own class, as each adapter answers, [adapters, rows].
        member: whether the row was in its training, [adapters, rows].
        accuracy: of the first adapter on the rows that it has not seen.
    """

    log_odds: Floats
    member: Bools
    accuracy: float

    def split(self, scores: Floats) -> tuple[Floats, Floats]:
        """Scores of the first adapter's members, and of the others."""
        return scores[self.member[0]], scores[~self.member[0]]


def run(subject: Subject, report: Report) -> list[Finding]:
    """See ``Attack``."""
    report(0.0, "outputs of the frozen model")
    top, (states,) = frozen(subject, _rows(subject))
    half = len(states) // 2
    trainer = Trainer(top, Schedule(STEPS, max(1, half // BATCHES), RATE))
    amounts = [None, *(trainer.noise(privacy, half) for privacy in budgets(subject))]
    count, done = subject.scaled(SHADOWS, least=7), 0.0
    trained = []
    for noise in amounts:

        def advance(share: float, begun: float = done) -> None:
            report(0.2 + 0.8 * (begun + share / len(amounts)), "shadow adapters")

        trained.append(shadows(trainer, states, count, subject.seed, noise, advance))
        done += 1 / len(amounts)
    measured = _measured(trained, subject.seed)
    return [
        *(found for one in measured for found in findings(subject, NAME, one)),
        *own_findings(subject, NAME, measured[0].measure, measured[0].plain),
    ]


def _measured(trained: Sequence[Trained], seed: int) -> list[Measured]:
    """What both attacks reach, without noise first."""
    plain = trained[0].accuracy
    notes = [f"right on rows not seen: {one.accuracy:.0%}, not {plain:.0%}" for one in trained[1:]]
    by_loss = [one.split(one.log_odds[0]) for one in trained]
    by_ratio = [one.split(lira(one)) for one in trained]
    area = "area under the ROC curve, members against others"
    share = f"share of members found where {ACCUSED:.0%} of the others are accused"
    name = f"LiRA, {len(trained[0].member) - 1} shadows"
    rows: list[tuple[str, str, float, list[Rate], Callable[[float, float], float]]] = [
        ("loss threshold", area, 0.5, [auc(*one, seed=seed) for one in by_loss], allowed_auc),
        (name, area, 0.5, [auc(*one, seed=seed) for one in by_ratio], allowed_auc),
        (
            name, share, ACCUSED, [found_share(*one, seed=seed) for one in by_ratio],
            allowed_share(ACCUSED),
        ),
    ]  # fmt: skip
    return [
        Measured(variant, measure, chance, rates[0], rates[1:], allowed, notes)
        for variant, measure, chance, rates, allowed in rows
    ]


def _applies(subject: Subject) -> str:
    return example_privacy.applies(subject, LEAST_ROWS)


def _rows(subject: Subject) -> list[Example]:
    """Training rows of the run, drawn from all sites here, an even number of them."""
    every = [row for data in subject.sites.values() for row in data.train]
    count = min(len(every), subject.scaled(ROWS, least=200)) // 2 * 2
    drawn = np.random.default_rng(subject.seed).permutation(len(every))[:count]
    return [every[i] for i in sorted(drawn)]


def shadows(
    trainer: Trainer,
    states: States,
    count: int,
    seed: int,
    noise: Noise | None,
    advance: Callable[[float], None] = lambda _: None,
) -> Trained:
    """An adapter to be attacked, and ``count`` more, an odd number.

    Each second one has the rows that the one before had not: each row is in half of all.
    """
    draw, rows = np.random.default_rng([seed, count]), len(states)
    member, log_odds, accuracy = np.zeros((count + 1, rows), bool), [], 0.0
    for i in range(count + 1):
        if i % 2:
            member[i] = ~member[i - 1]
        else:
            member[i, draw.permutation(rows)[: rows // 2]] = True
        trainer.train(states.part(np.flatnonzero(member[i]).tolist()), seed + i, noise)
        scores = trainer.top.scores(states)
        log_odds.append(log_odds_of(scores, states.labels))
        if not i:
            right = (scores.argmax(1) == states.labels).numpy()
            accuracy = float(right[~member[0]].mean())
        advance((i + 1) / (count + 1))
    return Trained(np.stack(log_odds), member, accuracy)


def lira(trained: Trained) -> Floats:
    """Log-likelihood ratio of each row's log-odds by the first adapter, from all others."""
    odds, member = trained.log_odds[1:], trained.member[1:]
    logs = []
    for group in (member, ~member):
        mean = np.where(group, odds, 0).sum(0) / group.sum(0)
        away = np.where(group, odds - mean, 0)
        variance = (away**2).sum() / max(1, group.sum() - group.shape[1])  # one mean a row
        logs.append(-((trained.log_odds[0] - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
    ratio: Floats = logs[0] - logs[1]
    return ratio


def found_share(members: Floats, others: Floats, *, seed: int = 0) -> Rate:
    """Share of members whose score is above that of all but ``ACCUSED`` of the others."""
    passed = int(ACCUSED * others.size)

    def found(members: Floats, others: Floats) -> Floats:
        least = np.sort(others, axis=-1)[..., others.shape[-1] - 1 - passed]
        share: Floats = (members > least[..., None]).mean(axis=-1)
        return share

    return bootstrap(found, members, others, seed=seed)


MEMBERSHIP = Attack(
    name=NAME,
    what="was this row among the training rows? by the released adapter",
    adversary="whoever has the adapter, and rows of the same kind",
    run=run,
    applies=_applies,
)
