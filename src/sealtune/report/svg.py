"""Make SVG and HTML elements whose text is always escaped.

    tag("text", "a < b", x=4, class_="label")   ->  <text x="4" class="label">a &lt; b</text>

Only what ``tag`` and ``join`` return is taken as markup; every plain string is text.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape


def tag(name: str, *content: str, **attributes: str | float | None) -> Markup:
    """One element. ``class_`` is ``class``; other underscores become hyphens; None is left out."""
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{listed}>{join(content)}</{name}>")  # every part is escaped


def join(parts: Iterable[str]) -> Markup:
    """Concatenate; plain strings are escaped."""
    return Markup("").join(parts)


def _attribute(value: str | float) -> str:
    """Coordinates to a tenth of a unit: a pixel's tenth is invisible, digits are bytes."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text_width(text: str, size: float) -> float:
    """Rough width of a line in the unit of ``size``: that of DejaVu Sans, a wide face."""
    units = 0.0
    for char in text:
        if char in "iljtf.,;:'’|!()[] ":
            units += 0.35
        elif char in "mwMW@%—":
            units += 0.95
        else:
            units += 0.72 if char.isupper() else 0.62
    return units * size


def wrap(text: str, size: float, width: float) -> list[str]:
    """Break at spaces so that each line fits ``width``; a longer word is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        fitted = shorten(word, size, width)
        if lines and text_width(f"{lines[-1]} {fitted}", size) <= width:
            lines[-1] += f" {fitted}"
        else:
            lines.append(fitted)
    return lines


def shorten(text: str, size: float, width: float) -> str:
    """The text, or its beginning and an ellipsis if it is wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"
