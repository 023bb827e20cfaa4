"""The page's line charts: training loss by step and by round, accuracy by round.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.job.training_events import Phase, Step
from sealtune.report.charts import MANY, Axes, Chart, Series
from sealtune.report.log import RunLog
from sealtune.report.methods import View
from sealtune.report.numbers import loss, percent
from sealtune.report.scale import Point, smooth
from sealtune.report.values import Json, mean

REACH = 2  # steps on either side that the smoothed line takes in
_FEW = 3 * (2 * REACH + 1)  # steps; fewer are shown as they are


def by_step(log: RunLog, view: View) -> Chart:
    """Training loss of every step of whoever trains."""
    starts, length = _round_starts(log)
    alone = {event.round for event in log.of(Phase) if event.phase == "personal"}
    raw: dict[str, list[Point]] = {
        name: [(starts[r] + step, event.loss) for (r, step), event in log.steps(role).items()]
        for name, role in view.trainers(log).items()
    }
    series: list[Series] = []
    note = f"Lines: mean of a step and the {REACH} on either side."
    short = max(map(len, raw.values()), default=0) < _FEW
    for i, (name, points) in enumerate(raw.items()):
        if short and points:
            series.append(Series(name, points, colour=i))
            continue
        if points and len(raw) <= MANY:
            series.append(Series(name, points, style="dots", colour=i))
        if points:
            series.append(Series(name, smooth(points, REACH), style="smooth", colour=i))
    if short:
        note = "Points are single steps; lines only join them."
    elif len(raw) > MANY:
        series.append(Series("mean of all sites", smooth(_mean(raw), REACH), True, "smooth"))
    else:
        note = f"Dots: single steps. {note}"
    trainer = "server" if view.method.server_trains else "site"
    axes = Axes(
        title="Training loss at every step",
        x=f"training step of the {trainer}, over all rounds",
        y="loss (nats)",
        show=_short,
        x_span=(0, length) if length else None,
        marks=[("alone" if r in alone else f"round {r}", start) for r, start in starts.items()],
        note=note,
    )
    return Chart(series, axes)


def _mean(raw: dict[str, list[Point]]) -> list[Point]:
    """Mean over sites at every step; sites without a value there are left out."""
    values: dict[float, list[float | None]] = {}
    for points in raw.values():
        for x, y in points:
            values.setdefault(x, []).append(y)
    return [(x, mean(ys)) for x, ys in sorted(values.items())]


def _round_starts(log: RunLog) -> tuple[dict[int, int], int]:
    """First step's offset of each round on a common axis, and the number of steps in all."""
    lengths: dict[int, int] = {}
    for event in log.of(Step):
        lengths[event.round] = max(lengths.get(event.round, 0), event.of, event.step)
    starts: dict[int, int] = {}
    offset = 0
    for r in sorted(lengths):
        starts[r] = offset
        offset += lengths[r]
    return starts, offset


def _short(value: float | None) -> str:
    """A loss for an axis or a hover title: three decimals, without trailing zeros."""
    shown = loss(value)
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def _by_round(curve: Json, sites: tuple[str, ...]) -> list[Series]:
    rounds = curve["rounds"]
    lines = [
        Series(site, list(zip(rounds, curve["sites"].get(site, []), strict=True)), colour=i)
        for i, site in enumerate(sites)
    ]
    if len(sites) > 1:
        lines.append(Series("all sites", list(zip(rounds, curve["all"], strict=True)), True))
    return lines


def round_loss(log: RunLog, view: View, summary: Json) -> Chart:
    """Mean training loss of each round."""
    axes = Axes("Mean training loss of each round", "round", "loss (nats)", _short)
    curve = summary["loss_curve"]
    if view.method.server_trains:
        points = list(zip(curve["rounds"], curve["all"], strict=True))
        return Chart([Series(name, points, True) for name in view.trainers(log)], axes)
    return Chart(_by_round(curve, log.sites), axes)


def round_accuracy(log: RunLog, summary: Json) -> Chart:
    """Accuracy where it was measured, against the majority class and the baselines."""
    curve = summary["accuracy_curve"]
    reached = {kind: figures["accuracy_after"] for kind, figures in summary["baselines"].items()}
    compared = {"majority class": summary["majority_class"], **reached}
    references = [(name, value) for name, value in compared.items() if value is not None]
    metric = summary["metric"]
    axes = Axes(
        title=f"{metric.capitalize()} on test rows (round 0: before training)",
        x="round",
        y=f"{metric} (%)",
        show=_percent,
        span=_span([*curve["all"], *(y for ys in curve["sites"].values() for y in ys)], references),
        references=references,
        note="Points are measurements; lines only join them.",
    )
    return Chart(_by_round(curve, log.sites), axes)


def epsilon(summary: Json) -> Chart | None:
    """What the rounds have cost, site by site, against the budget."""
    privacy = summary["privacy"]
    if privacy is None:
        return None
    curve, budget = privacy["curve"], privacy["budget"]
    largest = [y for ys in curve["sites"].values() for y in ys if y is not None]
    alike = len({tuple(ys) for ys in curve["sites"].values()}) == 1
    series = (
        [Series("every site", list(zip(curve["rounds"], curve["worst"], strict=True)), True)]
        if alike
        else _by_round({**curve, "all": curve["worst"]}, tuple(curve["sites"]))[:-1]
    )
    axes = Axes(
        title="Privacy spent",
        x="round",
        y="epsilon",
        show=_short,
        span=(0.0, 1.05 * max([budget or 0.0, *largest])),
        references=[("budget", budget)] if budget is not None else [],
        note="Less is more private. Each round adds noise and cost; the signed manifest has the "
        "table.",
    )
    return Chart(series, axes)


def _span(values: list[float | None], references: list[tuple[str, float]]) -> tuple[float, float]:
    """From 0 to the next tenth above everything, so that heights compare honestly."""
    top = max([0.0, *(v for v in values if v is not None), *(y for _, y in references)])
    return 0.0, min(1.0, (int(top * 10 + 1e-9) + 1) / 10)


def _percent(value: float | None) -> str:
    """A share for an axis: whole percents without a point."""
    return percent(value).replace(".0\u00a0", "\u00a0")
