"""How well the model does: accuracy, loss and curves, from the log.

Accuracy is always *correct answers / test rows*, added up over sites before dividing, so that a
large site weighs more than a small one. For ``causal-lm`` the rows are tokens.

Trust domain: server operator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sealtune.report.log import RunLog
from sealtune.report.values import Json, is_not_finite, mean, number, ratio, whole

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Score:
    """Result of one site's, or all sites', test rows.

    Attributes:
        correct: right answers (tokens for ``causal-lm``).
        total: test rows (tokens for ``causal-lm``).
        loss: mean cross-entropy over them, in nats, where recorded.
    """

    correct: int
    total: int
    loss: float | None

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


def scores(log: RunLog, event: Json, round_index: int | None) -> dict[str, Score]:
    """Scores of the sites that reported in a server event; sites that did not are left out.

    The server's event has no test loss, so that is taken from the site's own ``evaluated`` event
    of ``round_index``; before the server has spoken (interrupted run) that event serves alone.
    """
    found: dict[str, Score] = {}
    for site in log.sites:
        own = {} if round_index is None else log.evaluations(site).get(round_index, {})
        entry = log.entry(event, site) or ({} if event else own)
        correct, total = whole(entry.get("correct")), whole(entry.get("total"))
        if correct is None or not total:
            continue
        loss = number(entry.get("loss"))
        found[site] = Score(correct, total, number(own.get("loss")) if loss is None else loss)
    return found


def pool(parts: dict[str, Score]) -> Score | None:
    """All sites' test rows together; the loss only if every site has one."""
    if not parts:
        return None
    total = sum(s.total for s in parts.values())
    losses = [s.loss * s.total for s in parts.values() if s.loss is not None]
    loss = sum(losses) / total if len(losses) == len(parts) else None
    return Score(sum(s.correct for s in parts.values()), total, loss)


def before(log: RunLog) -> dict[str, Score]:
    """Scores before training (round 0)."""
    return scores(log, log.rounds.get(0, {}), 0)


def after(log: RunLog) -> dict[str, Score]:
    """Scores of the final adapter; empty if the run did not get there."""
    return scores(log, log.final, _last_round(log)) if log.final else {}


def _last_round(log: RunLog) -> int | None:
    stated = whole(log.final.get("round"))
    return stated if stated is not None else max(log.rounds, default=None)


def accuracy_curve(log: RunLog) -> Json:
    """Accuracy by round where it was measured; the final evaluation stands at the last round."""
    by_round = {r: scores(log, event, r) for r, event in log.rounds.items() if r > 0}
    by_round[0] = before(log)
    last = _last_round(log)
    if log.final and last is not None:
        by_round[last] = after(log)
    rounds = sorted(r for r, parts in by_round.items() if parts)
    pooled = {r: pool(by_round[r]) for r in rounds}
    return {
        "rounds": rounds,
        "all": [p.accuracy if p else None for p in pooled.values()],
        "sites": {
            site: [by_round[r][site].accuracy if site in by_round[r] else None for r in rounds]
            for site in log.sites
        },
    }


def loss_curve(log: RunLog) -> Json:
    """Mean training loss of each round: per site, and over all weighted by examples.

    In a split job batches mix all sites: there is one loss, the server's, and none of a site.
    """
    rounds = list(log.training_rounds)
    if log.is_split:
        nobody: list[float | None] = [None] * len(rounds)
        sites_ = {site: list(nobody) for site in log.sites}
        return {"rounds": rounds, "all": [_server_loss(log, r) for r in rounds], "sites": sites_}
    sites = {s: [_round_loss(log, s, r) for r in rounds] for s in log.sites}
    overall: list[float | None] = []
    for i, r in enumerate(rounds):
        weighted = [
            (loss, number(log.entry(log.rounds[r], site).get("examples")) or 0)
            for site, curve in sites.items()
            if (loss := curve[i]) is not None
        ]
        weight = sum(n for _, n in weighted)
        plain = mean(loss for loss, _ in weighted)
        overall.append(sum(x * n for x, n in weighted) / weight if weight else plain)
    return {"rounds": rounds, "all": overall, "sites": sites}


def _round_loss(log: RunLog, site: str, round_index: int) -> float | None:
    """The loss the site reported, else the mean of its steps' losses; None if it did not deliver.

    A site that failed half-way did not enter the average, so its loss is not the round's either.
    """
    entry = log.entry(log.rounds[round_index], site)
    if entry.get("outcome") != "ok":
        return None
    if "train_loss" in entry:
        return number(entry["train_loss"])
    steps = log.steps(f"client:{site}")
    return mean(number(e.get("loss")) for (r, _), e in steps.items() if r == round_index)


def _server_loss(log: RunLog, round_index: int) -> float | None:
    """The loss that the server enclave of a split job reported, else the mean of its steps."""
    event = log.rounds[round_index]
    if "train_loss" in event:
        return number(event["train_loss"])
    steps = log.steps("server")
    return mean(number(e.get("loss")) for (r, _), e in steps.items() if r == round_index)


def broken_losses(log: RunLog) -> int:
    """Number of steps, rounds and evaluations whose loss was NaN or infinite.

    Enclaves write such a loss as null, since JSON has no word for it.
    """
    losses = [e["loss"] for k in ("step", "evaluated") for e in log.of(k) if "loss" in e]
    for event in log.training_rounds.values():
        entries = [log.entry(event, site) for site in log.sites]
        ok = [event] if log.is_split else [e for e in entries if e.get("outcome") == "ok"]
        losses += [e["train_loss"] for e in ok if "train_loss" in e]
    return sum(loss is None or is_not_finite(loss) for loss in losses)


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
    stated = (whole(log.entry(e, site).get("examples")) for e in log.rounds.values())
    return next((n for n in reversed(list(stated)) if n), None)


def rounds_ok(log: RunLog, site: str) -> int:
    """Training rounds in which the site's update, or its samples (split job), went in."""
    return sum(log.entry(e, site).get("outcome") == "ok" for e in log.training_rounds.values())
