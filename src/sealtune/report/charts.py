"""Line charts and bars as inline SVG: no script, legible in print, hover titles on every mark.

Series differ by colour **and** by dash and marker. Past ``MANY`` series only the emphasised ones
keep colours; the others are drawn grey, each with its name as hover title. Colours come from the
page's CSS (classes ``s0`` to ``s7``, ``all``, ``many``), so light and dark need no second drawing.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from sealtune.report.scale import (
    Point,
    Scale,
    bounds,
    finite,
    segments,
    spread,
    thin,
    ticks,
)
from sealtune.report.svg import join, shorten, tag, text_width

MANY = 8
Style = Literal["line", "smooth", "dots"]
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
    style: Style = "line"
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
class _Frame:
    """Pixel geometry of one drawing."""

    width: int
    height: int
    x: Scale
    y: Scale

    @property
    def left(self) -> float:
        return self.x.start

    @property
    def right(self) -> float:
        return self.x.end

    @property
    def top(self) -> float:
        return self.y.end

    @property
    def bottom(self) -> float:
        return self.y.start


def line_chart(
    series: Sequence[Series], axes: Axes, *, width: int = 520, height: int = 290
) -> Markup:
    """A figure with caption, legend and drawing; a sentence instead if there is no value at all."""
    values = [y for s in series for _, y in finite(s.points)]
    caption = tag("figcaption", axes.title)
    if not values:
        return tag("figure", caption, tag("p", "Nothing recorded.", class_="empty"), class_="chart")
    frame = _frame(series, axes, values, width, height)
    drawing = tag(
        "svg",
        tag("title", f"{axes.title}: {axes.y} by {axes.x}"),
        _grid(frame, axes),
        _references(frame, axes),
        *(_draw(frame, s, axes, class_) for s, class_ in _classes(series)),
        class_="plot",
        viewBox=f"0 0 {width} {height}",
        role="img",
    )
    note = [tag("p", axes.note, class_="note")] if axes.note else []
    return tag("figure", caption, _legend(series), drawing, *note, class_="chart")


def _frame(
    series: Sequence[Series], axes: Axes, values: list[float], width: int, height: int
) -> _Frame:
    xs = [x for s in series for x, _ in s.points]
    x_lo, x_hi = axes.x_span or (min(xs), max(xs))
    if x_lo == x_hi:
        x_lo, x_hi = x_lo - 0.5, x_hi + 0.5
    lo, hi = axes.span or bounds([*values, *(y for _, y in axes.references)])
    widest = max(text_width(axes.show(t), 12) for t in ticks(lo, hi))
    names = max((text_width(n, 11.5) for n, _ in axes.references), default=0)
    right = min(150.0, 10 + names) if axes.references else 14.0
    return _Frame(
        width,
        height,
        Scale(x_lo, x_hi, max(34.0, widest + 12), width - right),
        Scale(lo, hi, height - 40.0, 30.0),
    )


def _classes(series: Sequence[Series]) -> list[tuple[Series, str]]:
    """Each series with its CSS class; emphasised ones last, so that they lie on top."""
    plain = {s.name for s in series if not s.emphasis}
    numbered: list[tuple[Series, str]] = []
    for i, s in enumerate(series):
        index = s.colour if s.colour is not None else i
        numbered.append(
            (s, "all" if s.emphasis else "many" if len(plain) > MANY else f"s{index % MANY}")
        )
    return sorted(numbered, key=lambda item: item[0].emphasis)


def _grid(frame: _Frame, axes: Axes) -> Markup:
    parts: list[Markup] = []
    for value in ticks(frame.y.lo, frame.y.hi):
        y = frame.y(value)
        parts.append(tag("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(
            tag(
                "text",
                axes.show(value),
                x=frame.left - 7,
                y=y + 4,
                class_="tick",
                text_anchor="end",
            )
        )
    for value in ticks(frame.x.lo, frame.x.hi, int(frame.width / 60), integers=True):
        x = frame.x(value)
        parts.append(tag("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
        parts.append(
            tag(
                "text",
                f"{value:.0f}",
                x=x,
                y=frame.bottom + 17,
                class_="tick",
                text_anchor="middle",
            )
        )
    base = frame.bottom
    parts.append(tag("line", x1=frame.left, x2=frame.right, y1=base, y2=base, class_="axis"))
    parts.append(tag("text", axes.y, x=2, y=14, class_="label"))
    parts.append(
        tag("text", axes.x, x=frame.right, y=frame.height - 5, class_="label", text_anchor="end")
    )
    return join([*parts, *_marks(frame, axes)])


def _marks(frame: _Frame, axes: Axes) -> list[Markup]:
    parts: list[Markup] = []
    free_from = frame.left
    for name, value in axes.marks:
        x = frame.x(value)
        parts.append(tag("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="mark"))
        if x >= free_from and x + text_width(name, 11) + 4 <= frame.right:
            parts.append(tag("text", name, x=x + 4, y=frame.top + 9, class_="mark-name"))
            free_from = x + text_width(name, 11) + 14
    return parts


def _references(frame: _Frame, axes: Axes) -> Markup:
    parts: list[Markup] = []
    places = [frame.y(v) for _, v in axes.references]
    labels = spread(places, 13, frame.top + 4, frame.bottom - 2)
    room = frame.width - frame.right - 6
    for (name, value), y, label_y in zip(axes.references, places, labels, strict=True):
        hover = tag("title", f"{name}: {axes.show(value)}")
        parts.append(
            tag("line", hover, x1=frame.left, x2=frame.right, y1=y, y2=y, class_="reference")
        )
        shown = shorten(name, 11.5, room)
        parts.append(tag("text", shown, hover, x=frame.right + 5, y=label_y + 4, class_="ref-name"))
    return join(parts)


def _draw(frame: _Frame, series: Series, axes: Axes, class_: str) -> Markup:
    points = thin(series.points)
    parts: list[Markup] = []
    if series.style != "dots":
        for run in segments(points):
            path = "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in run)
            parts.append(tag("path", tag("title", series.name), d=path, class_="curve"))
    shown = series.style == "dots" or (series.style == "line" and len(points) <= 60)
    for x, y in finite(points) if shown else ():
        hover = tag("title", f"{series.name}, {axes.x} {x:g}: {axes.show(y)}")
        at = {"cx": frame.x(x), "cy": frame.y(y), "r": 1.7 if series.style == "dots" else 3.0}
        parts.append(tag("circle", hover, **at, class_=series.style))
    gaps = [x for x, y in points if y is None and series.style != "smooth"]
    for x in gaps:
        hover = tag("title", f"{series.name}, {axes.x} {x:g}: no value")
        at = {"x": frame.x(x), "y": frame.bottom - 3}
        parts.append(tag("text", "×", hover, **at, class_="gap", text_anchor="middle"))
    return tag("g", *parts, class_=class_)


def _legend(series: Sequence[Series]) -> Markup:
    """Names with a sample of their line; dots share their line's entry."""
    shown = [(s, c) for s, c in _classes(series) if s.style != "dots"]
    shown.sort(key=lambda item: not item[0].emphasis)
    grey = [s for s, c in shown if c == "many"]
    items = [_legend_item(s.name, c) for s, c in shown if c != "many"]
    if grey:
        items.append(_legend_item(f"{len(grey)} sites, one line each", "many"))
    return tag("ul", *items, class_="legend") if len(items) > 1 else Markup("")


def _legend_item(name: str, class_: str) -> Markup:
    sample = tag("g", tag("path", d="M1 5H25", class_="curve"), class_=class_)
    picture = tag("svg", sample, viewBox="0 0 26 10", class_="sample", aria_hidden="true")
    return tag("li", picture, name)
