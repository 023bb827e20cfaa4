"""Line charts: where lines, points and labels lie, as the template draws them.

Lines and points are an SVG of 1000 x 1000 units that the page stretches; ticks, names and legend
are the page's own text beside it. So one drawing serves every width, and text stays text.

Series differ by colour **and** by dash. Past ``MANY`` series only the emphasised ones keep colours;
the others are drawn grey, each with its name as hover title. Colours come from the page's CSS
(classes ``s0`` to ``s7``, ``all``, ``many``).

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sealtune.report.scale import Point, bounds, finite, segments, spread, thin, ticks

MANY = 8
_LINE = 6.0  # percent of the height that a line of small text takes
_NAMED, _NAMED_NARROW = 12, 4  # vertical marks that there is room to name, by the page's width


class Series(NamedTuple):
    """One curve.

    ``style``: points joined by lines; lines alone (``smooth``); or faint points alone (``dots``).
    """

    name: str  # shown in the legend and in hover titles
    points: Sequence[Point]  # (x, y) by ascending x; y None where there is no figure
    emphasis: bool = False  # drawn thick in the text's colour (a mean, a total)
    style: Literal["line", "smooth", "dots"] = "line"
    colour: int = 0  # its index


class Axes(NamedTuple):
    """What a line chart shows."""

    title: str  # caption above the chart
    x: str  # axis labels with units
    y: str
    show: Callable[[float | None], str]  # how to print a y value
    span: tuple[float, float] | None = None  # fixed range of y; None fits the data
    x_span: tuple[float, float] | None = None  # fixed range of x; None fits the data
    references: Sequence[tuple[str, float]] = ()  # named levels: ("majority class", 0.057)
    marks: Sequence[tuple[str, float]] = ()  # named vertical lines: ("round 2", 10.5)
    note: str = ""  # one line below the chart


class Chart:
    """A line chart.

    Args:
        series: its curves; without a single value there is nothing to draw.
        axes: what it shows.
    """

    def __init__(self, series: Sequence[Series], axes: Axes) -> None:
        self.axes = axes
        values = [y for s in series for _, y in finite(s.points)]
        self.series = sorted(series, key=lambda s: s.emphasis) if values else []  # those on top
        xs = [x for s in self.series for x, _ in s.points] or [0.0]
        left, right = axes.x_span or (min(xs), max(xs))
        self._x = (left, right) if left < right else (left - 0.5, right + 0.5)
        self._y = axes.span or bounds([*values, *(y for _, y in axes.references)])
        self._many = len({s.name for s in series if not s.emphasis}) > MANY
        self.x_ticks = ticks(*self._x, 8, integers=True)
        self.y_ticks = ticks(*self._y)

    def across(self, x: float) -> float:
        """Percent from the left."""
        return 100 * (x - self._x[0]) / (self._x[1] - self._x[0])

    def down(self, y: float) -> float:
        """Percent from the top."""
        return 100 * (self._y[1] - y) / (self._y[1] - self._y[0])

    def path(self, run: Sequence[tuple[float, float]]) -> str:
        """A line through these points."""
        return "M" + "L".join(f"{10 * self.across(x):.0f} {10 * self.down(y):.0f}" for x, y in run)

    def class_of(self, series: Series) -> str:
        """A series' CSS class."""
        coloured = "many" if self._many else f"s{series.colour % MANY}"
        return "all" if series.emphasis else coloured

    def runs(self, series: Series) -> list[list[tuple[float, float]]]:
        """What lines join: the points between gaps."""
        return segments(thin(series.points)) if series.style != "dots" else []

    def points(self, series: Series) -> list[tuple[float, float]]:
        """Points that are drawn one by one."""
        shown = thin(series.points)
        single = series.style == "dots" or (series.style == "line" and len(shown) <= 60)
        return finite(shown) if single else []

    def gaps(self, series: Series) -> list[float]:
        """Where a value is missing."""
        shown = thin(series.points) if series.style != "smooth" else []
        return [x for x, y in shown if y is None]

    def hover(self, series: Series, x: float, y: float | None = None) -> str:
        """What a point says of itself."""
        value = "no value" if y is None else self.axes.show(y)
        return f"{series.name}, {self.axes.x} {x:g}: {value}"

    def legend(self) -> list[tuple[str, str]]:
        """(name, class), emphasised ones first; dots share their line's entry; none for one."""
        lines = [s for s in self.series if s.style != "dots"]
        shown = [(s.name, self.class_of(s)) for s in reversed(lines) if s.emphasis]
        rest = [(s.name, self.class_of(s)) for s in lines if not s.emphasis]
        shown += [(f"{len(rest)} sites, one line each", "many")] if self._many else rest
        return shown if len(shown) > 1 else []

    def mark_names(self) -> list[tuple[str, float, str]]:
        """(name, x, class) of as many marks as there is room for; ``minor``: on a wide page."""
        marks = self.axes.marks
        wide, narrow = (-(-len(marks) // most) or 1 for most in (_NAMED, _NAMED_NARROW))
        named = [(i, mark) for i, mark in enumerate(marks) if i % wide == 0]
        return [(name, x, "minor" if i % narrow else "") for i, (name, x) in named]

    def reference_names(self) -> list[tuple[str, float]]:
        """(name, percent from the top), moved apart."""
        places = [self.down(y) for _, y in self.axes.references]
        names = (name for name, _ in self.axes.references)
        return list(zip(names, spread(places, _LINE, 2.0, 98.0), strict=True))
