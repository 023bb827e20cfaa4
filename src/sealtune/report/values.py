"""Small total functions over values that came from a log: absent or odd values become ``None``.

A log can end in mid-run, and a loss can be NaN; a report must still come out, and must not turn a
missing figure into a zero.

Trust domain: server operator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]


def number(value: object) -> float | None:
    """A finite int or float (the same object, so counts stay whole); anything else: ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an int beyond the range of floats
        return None


def whole(value: object) -> int | None:
    """A number that is a whole count; anything else: ``None``."""
    count = number(value)
    return int(count) if count is not None and count == int(count) else None


def text(value: object) -> str | None:
    """A JSON string; anything else: ``None``."""
    return value if isinstance(value, str) else None


def table(value: object) -> Json:
    """A JSON object; anything else: an empty one."""
    return value if isinstance(value, dict) else {}


def add(values: Iterable[float | None]) -> float | None:
    """Sum of what is there; ``None`` if nothing is."""
    present = [v for v in values if v is not None]
    return sum(present) if present else None


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of what is there; ``None`` if nothing is."""
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else None


def ratio(part: float | None, whole_: float | None) -> float | None:
    """``part / whole_``; ``None`` if either is missing or ``whole_`` is 0."""
    return part / whole_ if part is not None and whole_ else None
