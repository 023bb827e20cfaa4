"""How well the model does: accuracy, loss and curves, from the log.

Accuracy is always *correct answers / test rows*, added up over sites before dividing, so that a
large site weighs more than a small one. For ``causal-lm`` the rows are tokens.

Trust domain: server operator.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from sealtune.job.events import NOT_ASKED, Round
from sealtune.job.training_events import Evaluated, Step
from sealtune.report.log import RunLog, entry
from sealtune.report.methods import View
from sealtune.report.values import Json, mean, ratio

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


class Score(NamedTuple):
    """Result of one site's, or all sites', test rows (tokens for ``causal-lm``)."""

    correct: int  # right answers
    total: int
    loss: float | None  # mean cross-entropy over them, in nats, where recorded

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, 0 to 1."""
        return ratio(self.correct, self.total)

    @property
    def interval(self) -> list[float] | None:
        """95 % Wilson interval of the accuracy: the chance of the test rows, nothing else."""
        if not self.total:
            return None
        n, p = self.total, self.correct / self.total
        centre = p + Z_95**2 / (2 * n)
        spread = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n))
        scale = 1 + Z_95**2 / n
        return [max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)]


def scores(log: RunLog, event: Round | None, number: int | None) -> dict[str, Score]:
    """Scores of the sites that reported in a round; sites that did not are left out.

    A server that does not test itself states no test loss, so that is taken from the site's own
    ``evaluated`` event of round ``number``; before the server has spoken (interrupted run) that
    event serves alone.
    """
    by_site: dict[str, Score] = {}
    for site in log.sites:
        own = None if number is None else log.evaluations(site).get(number)
        stated = entry(event, site) if event and site in event.sites else None if event else own
        if stated is None or stated.correct is None or not stated.total:
            continue
        loss = stated.loss if stated.loss is not None or own is None else own.loss
        by_site[site] = Score(stated.correct, stated.total, loss)
    return by_site


def pool(parts: dict[str, Score]) -> Score | None:
    """All sites' test rows together; the loss only if every site has one."""
    if not parts:
        return None
    total = sum(s.total for s in parts.values())
    losses = [s.loss * s.total for s in parts.values() if s.loss is not None]
    loss = sum(losses) / total if len(losses) == len(parts) else None
    return Score(sum(s.correct for s in parts.values()), total, loss)


def joint(log: RunLog, event: Round | None, number: int | None) -> Score | None:
    """All sites' score in a round: what the server says of them together, else see ``pool``."""
    if event is not None and event.total:
        return Score(event.correct or 0, event.total, event.loss)
    return pool(scores(log, event, number))


def tested(log: RunLog, event: Round | None, number: int | None) -> list[str]:
    """The sites behind a round's score."""
    if event is not None and event.total:
        return [site for site in log.sites if entry(event, site).outcome == "ok"]
    return list(scores(log, event, number))


def before(log: RunLog) -> dict[str, Score]:
    """Scores before training (round 0)."""
    return scores(log, log.rounds.get(0), 0)


def after(log: RunLog) -> dict[str, Score]:
    """Scores of the final adapter; empty if the run did not get there."""
    return scores(log, log.final, log.final.round) if log.final else {}


def accuracy_curve(log: RunLog) -> Json:
    """Accuracy by round where it was measured; the final evaluation stands at the last round."""
    events: dict[int, Round | None] = {0: log.rounds.get(0), **log.training_rounds}
    if log.final:
        events[log.final.round] = log.final
    together = {r: joint(log, event, r) for r, event in sorted(events.items())}
    rounds = [r for r, score in together.items() if score]
    by_round = {r: scores(log, events[r], r) for r in rounds}
    pooled = [together[r] for r in rounds]
    return {
        "rounds": rounds,
        "all": [score.accuracy if score else None for score in pooled],
        "sites": {
            site: [by_round[r][site].accuracy if site in by_round[r] else None for r in rounds]
            for site in log.sites
        },
    }


def loss_curve(log: RunLog, view: View) -> Json:
    """Mean training loss of each round: per site, and over all weighted by examples.

    Where the server trains, batches mix all sites: there is one loss, and none of a site.
    """
    curves: dict[str, list[float | None]] = {}
    overall: list[float | None] = []
    for number, event in log.training_rounds.items():
        losses = _round_losses(log, view, number, event)
        for site in log.sites:
            curves.setdefault(site, []).append(losses.get(f"client:{site}"))
        weighted = [
            (loss, entry(event, role.removeprefix("client:")).examples or 0)
            for role, loss in losses.items()
            if loss is not None
        ]
        weight = sum(examples for _, examples in weighted)
        plain = mean(loss for loss, _ in weighted)
        if "train_loss" in event.model_fields_set:
            overall.append(event.train_loss)
        else:
            overall.append(sum(x * n for x, n in weighted) / weight if weight else plain)
    sites = {site: curves.get(site, []) for site in log.sites}
    return {"rounds": list(log.training_rounds), "all": overall, "sites": sites}


def _round_losses(log: RunLog, view: View, number: int, event: Round) -> dict[str, float | None]:
    """Each trainer's loss as it was reported, else the mean of its steps' losses.

    A site that failed half-way did not enter the average, so its loss is not the round's either.
    """
    return {
        role: loss
        if stated
        else mean(step.loss for (r, _), step in log.steps(role).items() if r == number)
        for role, (stated, loss) in view.round_losses(log, event).items()
    }


def broken_losses(log: RunLog, view: View) -> int:
    """Number of steps, rounds and evaluations whose loss was NaN or infinite.

    Such a loss is recorded as null, since JSON has no word for it.
    """
    spoken: list[Step | Evaluated] = [*log.of(Step), *log.of(Evaluated)]
    broken = sum("loss" in event.model_fields_set and event.loss is None for event in spoken)
    for event in log.training_rounds.values():
        stated = view.round_losses(log, event).values()
        broken += sum(is_stated and loss is None for is_stated, loss in stated)
    return broken


def perplexity(loss: float | None) -> float | None:
    """``exp(loss)``; ``None`` if there is no loss or the result overflows."""
    if loss is None:
        return None
    try:
        return math.exp(loss)
    except OverflowError:
        return None


def examples(log: RunLog, site: str) -> int | None:
    """Training examples that were last reported of a site: its weight in the average."""
    stated = [entry(event, site).examples for event in log.rounds.values()]
    return next((count for count in reversed(stated) if count), None)


def rounds_ok(log: RunLog, site: str) -> int:
    """Training rounds in which the site's update, or its samples (split job), went in."""
    return sum(entry(event, site).outcome == "ok" for event in log.training_rounds.values())


def rounds_asked(log: RunLog, site: str) -> int:
    """Training rounds in which the site was to take part; those without record count."""
    entries = [entry(event, site) for event in log.training_rounds.values()]
    return sum(own.outcome != NOT_ASKED for own in entries)


def rounds_outlier(log: RunLog, site: str) -> int | None:
    """Training rounds in which the site's update pointed elsewhere; None: nobody compared them."""
    stated = [entry(event, site).outlier for event in log.training_rounds.values()]
    compared = [outlier for outlier in stated if outlier is not None]
    return sum(compared) if compared else None
