"""What attacks on the run found, from ``audit.json``: rows with their intervals drawn to scale.

Every row has a scale of its own that begins at 0, since attacks count in different units.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sealtune.report.log import RunLog
from sealtune.report.values import Json, number, table, text

_CLASSES = {"held": "ok", "limit": "late", "broken": "failed"}


class Interval(NamedTuple):
    """A rate on the row's scale, in thousandths of its width, and as text."""

    class_: str
    low: float
    value: float
    high: float
    shown: str


class Row(NamedTuple):
    """One finding."""

    variant: str
    measure: str
    chance: str
    at_chance: float  # on the row's scale
    intervals: Sequence[Interval]  # baseline, then protected if there is one
    verdict: str
    class_: str
    note: str


class Attack(NamedTuple):
    """One attack."""

    name: str
    what: str
    adversary: str
    why_not: str
    seconds: float | None
    rows: Sequence[Row]


def attacks(log: RunLog) -> list[Attack]:
    """Of an audit of this very job; empty: there was none."""
    if not log.audit or text(log.audit.get("job_id")) != text(log.signed.get("job_id")):
        return []
    return [
        Attack(
            text(entry.get("name")) or "",
            text(entry.get("what")) or "",
            text(entry.get("adversary")) or "",
            text(entry.get("not_applicable")) or "",
            number(entry.get("seconds")),
            [row for finding in _tables(entry.get("findings")) for row in _row(finding)],
        )
        for entry in _tables(log.audit.get("attacks"))
    ]


def verdicts(found: Sequence[Attack]) -> dict[str, int]:
    """How often each verdict was reached, the worst first."""
    order = ("broken", "attack too weak", "limit", "held")
    every = [row.verdict for attack in found for row in attack.rows]
    return {verdict: every.count(verdict) for verdict in order if verdict in every}


def _tables(values: object) -> list[Json]:
    return [table(value) for value in values] if isinstance(values, list) else []


def _row(finding: Json) -> Iterator[Row]:
    """One, or none if its figures cannot be read."""
    chance, rates = number(finding.get("chance")), [_rate(finding.get("baseline"))]
    if finding.get("protected") is not None:
        rates.append(_rate(finding["protected"]))
    figures = [rate for rate in rates if rate is not None]
    if chance is None or len(figures) < len(rates):
        return
    full = max(1.0 if chance <= 1 else chance, *(rate[2] for rate in figures)) or 1.0
    intervals = [
        Interval(class_, _part(low, full), _part(value, full), _part(high, full), shown)
        for class_, (low, value, high) in zip(("baseline", "protected"), figures, strict=False)
        for shown in (f"{value:.3g} ({low:.3g} to {high:.3g})",)
    ]
    verdict = text(finding.get("verdict")) or ""
    yield Row(
        text(finding.get("variant")) or "",
        text(finding.get("measure")) or "",
        f"{chance:.3g}",
        _part(chance, full),
        intervals,
        verdict,
        _CLASSES.get(verdict, "none"),
        text(finding.get("note")) or "",
    )


def _rate(value: object) -> tuple[float, float, float] | None:
    """Lower end, value, upper end."""
    found = [number(table(value).get(key)) for key in ("low", "value", "high")]
    low, middle, high = found
    return None if low is None or middle is None or high is None else (low, middle, high)


def _part(value: float, full: float) -> float:
    return round(1000 * min(1.0, max(0.0, value / full)), 1)
