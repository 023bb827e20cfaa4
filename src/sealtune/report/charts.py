"""Line charts as data: where lines, points and labels lie, as the template draws them.

Lines and points are an SVG of 1000 x 1000 units that the page stretches; ticks, names and legend
are the page's own text beside it. So one drawing serves every width, and text stays text.

Series differ by colour **and** by dash. Past ``MANY`` series only the emphasised ones keep colours;
the others are drawn grey, each with its name as hover title. Colours come from the page's CSS
(classes ``s0`` to ``s7``, ``all``, ``many``).

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sealtune.report.scale import Point, bounds, finite, segments, spread, thin, ticks

MANY = 8
UNITS = 1000  # of a drawing, across and down
_LINE = 6.0  # percent of the height that a line of small text takes
_NAMED = 12  # vertical marks that are named
_NAMED_NARROW = 4
Format = Callable[[float | None], str]


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: shown in the legend and in hover titles.
        points: (x, y) by ascending x; y None where there is no figure.
        emphasis: drawn thick in the text's colour (a mean, a total).
        style: points joined by lines; lines alone (``smooth``); or faint points alone (``dots``).
        colour: index of the colour; by default the position among the series.
    """

    name: str
    points: Sequence[Point]
    emphasis: bool = False
    style: Literal["line", "smooth", "dots"] = "line"
    colour: int | None = None


@dataclass(frozen=True)
class Axes:
    """What a line chart shows.

    Attributes:
        title: caption above the chart.
        x, y: axis labels with units.
        show: how to print a y value.
        span: fixed range of y; None fits the data.
        x_span: fixed range of x; None fits the data.
        references: named horizontal lines, such as ("majority class", 0.057).
        marks: named vertical lines, such as ("round 2", 10.5).
        note: one line below the chart.
    """

    title: str
    x: str
    y: str
    show: Format
    span: tuple[float, float] | None = None
    x_span: tuple[float, float] | None = None
    references: Sequence[tuple[str, float]] = ()
    marks: Sequence[tuple[str, float]] = ()
    note: str = ""


@dataclass(frozen=True)
class Place:
    """Something named at a place along an axis.

    Attributes:
        at: percent from the left, or from the top.
        label: percent where its name stands.
        class_: ``minor`` is left out on a narrow page, ``bare`` has no name.
    """

    name: str
    at: float
    label: float
    class_: str = ""


@dataclass(frozen=True)
class Drawn:
    """A series as it lies in the drawing.

    Attributes:
        curves: path of each unbroken run.
        points: (hover title, path) of single points.
        gaps: (hover title, percent from the left) of missing values.
    """

    name: str
    class_: str
    style: str
    curves: Sequence[str]
    points: Sequence[tuple[str, str]]
    gaps: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Chart:
    """A line chart; without ``series`` there was nothing to draw."""

    axes: Axes
    series: Sequence[Drawn] = ()
    legend: Sequence[tuple[str, str]] = ()
    x_ticks: Sequence[Place] = ()
    y_ticks: Sequence[Place] = ()
    marks: Sequence[Place] = ()
    references: Sequence[Place] = ()


def line_chart(series: Sequence[Series], axes: Axes) -> Chart:
    """Lay a chart out."""
    values = [y for s in series for _, y in finite(s.points)]
    if not values:
        return Chart(axes)
    xs = [x for s in series for x, _ in s.points]
    left, right = axes.x_span or (min(xs), max(xs))
    if left == right:
        left, right = left - 0.5, right + 0.5
    low, high = axes.span or bounds([*values, *(y for _, y in axes.references)])

    def across(x: float) -> float:
        return 100 * (x - left) / (right - left)

    def down(y: float) -> float:
        return 100 * (high - y) / (high - low)

    classes = _classes(series)
    return Chart(
        axes,
        [_draw(s, class_, axes, across, down) for s, class_ in classes],
        _legend(classes),
        [_tick(f"{x:.0f}", across(x)) for x in ticks(left, right, 8, integers=True)],
        [_tick(axes.show(y), down(y)) for y in ticks(low, high)],
        _marks(axes.marks, across),
        _references(axes, down),
    )


def _tick(name: str, at: float) -> Place:
    return Place(name, at, at)


def _classes(series: Sequence[Series]) -> list[tuple[Series, str]]:
    """Each series with its CSS class; emphasised ones last, so that they lie on top."""
    many = len({s.name for s in series if not s.emphasis}) > MANY
    classed: list[tuple[Series, str]] = []
    for i, s in enumerate(series):
        index = i if s.colour is None else s.colour
        classed.append((s, "all" if s.emphasis else "many" if many else f"s{index % MANY}"))
    return sorted(classed, key=lambda pair: pair[0].emphasis)


def _legend(classes: Sequence[tuple[Series, str]]) -> list[tuple[str, str]]:
    """(name, class), emphasised ones first; dots share their line's entry; none for one alone."""
    shown = [(s, class_) for s, class_ in classes if s.style != "dots"]
    shown.sort(key=lambda pair: not pair[0].emphasis)
    named = [(s.name, class_) for s, class_ in shown if class_ != "many"]
    grey = len(shown) - len(named)
    if grey:
        named.append((f"{grey} sites, one line each", "many"))
    return named if len(named) > 1 else []


def _draw(
    series: Series,
    class_: str,
    axes: Axes,
    across: Callable[[float], float],
    down: Callable[[float], float],
) -> Drawn:
    def at(x: float, y: float) -> str:
        return f"{across(x) * UNITS / 100:.0f} {down(y) * UNITS / 100:.0f}"

    def hover(x: float, y: float | None) -> str:
        return f"{series.name}, {axes.x} {x:g}: {'no value' if y is None else axes.show(y)}"

    points = thin(series.points)
    single = series.style == "dots" or (series.style == "line" and len(points) <= 60)
    runs = segments(points) if series.style != "dots" else []
    return Drawn(
        series.name,
        class_,
        series.style,
        ["M" + "L".join(at(x, y) for x, y in run) for run in runs],
        [(hover(x, y), f"M{at(x, y)}h0") for x, y in finite(points) if single],
        [(hover(x, y), across(x)) for x, y in points if y is None and series.style != "smooth"],
    )


def _marks(marks: Sequence[tuple[str, float]], across: Callable[[float], float]) -> list[Place]:
    """As many of them named as there is room for."""
    wide, narrow = (-(-len(marks) // most) or 1 for most in (_NAMED, _NAMED_NARROW))
    return [
        Place(name, across(x), across(x), "bare" if i % wide else "minor" if i % narrow else "")
        for i, (name, x) in enumerate(marks)
    ]


def _references(axes: Axes, down: Callable[[float], float]) -> list[Place]:
    """Horizontal lines, their names moved apart."""
    places = [down(y) for _, y in axes.references]
    labels = spread(places, _LINE, 2.0, 98.0)
    return [
        Place(name, at, label)
        for (name, _), at, label in zip(axes.references, places, labels, strict=True)
    ]
