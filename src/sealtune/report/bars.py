"""Horizontal bars that flow with the page: a table-like grid whose bars are small SVG strips.

The strips are SVG (not coloured boxes) so that they also appear on paper.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sealtune.report.numbers import percent
from sealtune.report.svg import tag


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, how the length is written, and its CSS class."""

    name: str
    value: float | None
    shown: str
    class_: str = "plain"
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One part of a stacked bar; ``class_`` gives its colour, the same in every row."""

    name: str
    value: float
    shown: str
    class_: str


def bars(rows: Sequence[Bar], *, full: float | None = None) -> Markup:
    """Bars on one scale that starts at 0; ``full`` is the value of a full-width bar."""
    top = full or max((r.value for r in rows if r.value is not None), default=0) or 1
    cells: list[Markup] = []
    for row in rows:
        note = [tag("small", row.note)] if row.note else []
        width = 100 * min(1.0, max(0.0, (row.value or 0) / top))
        hover = tag("title", f"{row.name}: {row.shown}")
        drawn = [tag("rect", hover, width=width, height=1, class_=row.class_)]
        cells.append(tag("div", row.name, *note, class_=f"name {row.class_}"))
        cells.append(tag("div", _strip(drawn), class_="strip"))
        cells.append(tag("div", row.shown, class_="value"))
    return tag("div", *cells, class_="bars")


def stacked(rows: Sequence[tuple[str, str, Sequence[Part]]], legend: Sequence[Part]) -> Markup:
    """Stacked bars ``(name, total as text, parts)`` on one scale, with a legend of the parts."""
    top = max((sum(p.value for p in parts) for _, _, parts in rows), default=0) or 1
    cells: list[Markup] = []
    for name, total, parts in rows:
        drawn: list[Markup] = []
        x = 0.0
        whole = sum(p.value for p in parts) or 1
        for part in parts:
            width = 100 * part.value / top
            hover = tag(
                "title", f"{name}, {part.name}: {part.shown} ({percent(part.value / whole)})"
            )
            drawn.append(
                tag("rect", hover, x=round(x, 3), width=width, height=1, class_=part.class_)
            )
            x += width
        cells.append(tag("div", name, class_="name"))
        cells.append(tag("div", _strip(drawn), class_="strip"))
        cells.append(tag("div", total, class_="value"))
    items = [
        tag(
            "li",
            tag("svg", tag("rect", width=10, height=10, class_=p.class_), viewBox="0 0 10 10"),
            tag("span", p.name, " ", tag("b", p.shown)),
        )
        for p in legend
    ]
    return tag("div", tag("ul", *items, class_="keys"), tag("div", *cells, class_="bars"))


def _strip(drawn: list[Markup]) -> Markup:
    return tag("svg", *drawn, viewBox="0 0 100 1", preserveAspectRatio="none", aria_hidden="true")
