"""Axis arithmetic: round tick values, ranges that hold every point, thinning of long series.

Trust domain: server operator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float | None]  # y is None where the figure is missing or not finite


def nice_step(span: float, ticks: int) -> float:
    """1, 2 or 5 times a power of ten, so that ``span`` holds about ``ticks`` steps."""
    raw = span / max(1, ticks)
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)


def ticks(lo: float, hi: float, wanted: int = 6, *, integers: bool = False) -> list[float]:
    """Round values within ``lo..hi`` (lo < hi), at least one of them."""
    step = nice_step(hi - lo, wanted)
    if integers:
        step = max(1.0, step)
    first = math.ceil(lo / step - 1e-9)
    values = [i * step for i in range(first, math.floor(hi / step + 1e-9) + 1)]
    return values or [lo]


def bounds(values: Iterable[float]) -> tuple[float, float]:
    """A range ``lo < hi`` around the values, a little wider than they are.

    Starts at 0 when the smallest value lies in the lower half, so that heights compare honestly.
    """
    numbers = list(values)
    if not numbers:
        return 0.0, 1.0
    lo, hi = min(numbers), max(numbers)
    if lo >= 0 and lo <= hi / 2:
        lo = 0.0
    margin = (hi - lo) * 0.06 or abs(hi) * 0.1 or 1.0
    return lo if lo == 0 else lo - margin, hi + margin


def finite(points: Sequence[Point]) -> list[tuple[float, float]]:
    """The points that have a value."""
    return [(x, y) for x, y in points if y is not None]


def segments(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """Runs of points between missing ones: a line must not bridge a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def thin(points: Sequence[Point], limit: int = 600) -> list[Point]:
    """At most ``limit`` points: of each stretch the lowest, the highest and one missing, if any."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(3 * len(points) / limit)
    thinned: list[Point] = []
    for i in range(0, len(points), size):
        chunk = points[i : i + size]
        valued = finite(chunk)
        chosen: set[Point] = set([p for p in chunk if p[1] is None][:1])
        if valued:
            chosen |= {min(valued, key=lambda p: p[1]), max(valued, key=lambda p: p[1])}
        thinned.extend(p for p in chunk if p in chosen)
    return thinned


def smooth(points: Sequence[Point], reach: int) -> list[Point]:
    """Mean of each point and ``reach`` on either side, of a value at every whole x.

    A missing value, or an x left out, parts the curve.

    The outermost points of a run have no full window and are left out; a run shorter than one
    window stays as it is.
    """
    result: list[Point] = []
    run: list[tuple[float, float]] = []
    for x, y in [*points, (0.0, None)]:
        if y is not None and (not run or x - run[-1][0] < 1.5):
            run.append((x, y))
            continue
        if len(run) <= 2 * reach:
            result.extend(run)
        for i in range(reach, len(run) - reach):
            near = [v for _, v in run[i - reach : i + reach + 1]]
            result.append((run[i][0], sum(near) / len(near)))
        run = [] if y is None else [(x, y)]
        result.append((x, None))
    return result[:-1]


def spread(positions: Sequence[float], gap: float, lo: float, hi: float) -> list[float]:
    """Move label positions apart to at least ``gap``, keeping order and staying in ``lo..hi``."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = list(positions)
    floor = lo
    for i in order:
        placed[i] = max(placed[i], floor)
        floor = placed[i] + gap
    ceiling = hi
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
