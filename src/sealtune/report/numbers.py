"""Numbers as people read them. ``None`` is shown as an en dash.

Trust domain: server operator.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

NONE = "–"
NBSP = "\u00a0"


def percent(value: float | None, digits: int = 1) -> str:
    """0.6812 -> ``68.1 %``."""
    return NONE if value is None else f"{100 * value:.{digits}f}{NBSP}%"


def points(value: float | None) -> str:
    """A difference of two shares: 0.123 -> ``12.3 points better``."""
    if value is None:
        return NONE
    shown = f"{abs(100 * value):.1f}"
    if shown == "0.0":
        return "equal"
    return f"{shown}{NBSP}points {'better' if value > 0 else 'worse'}"


def count(value: float | None) -> str:
    """3967 -> ``3,967``."""
    return NONE if value is None else f"{value:,.0f}"


def loss(value: float | None) -> str:
    """Three digits after the point; more is noise."""
    return NONE if value is None else f"{value:,.3f}"


def times(value: float | None) -> str:
    """A ratio of times: 1.324 -> ``1.32 × as long``."""
    return NONE if value is None else f"{value:,.2f}{NBSP}× as long"


def size(value: float | None) -> str:
    """Bytes in decimal units with three figures: 48_100_000 -> ``48.1 MB``."""
    if value is None:
        return NONE
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * scale:
            return f"{three(value / scale)}{NBSP}{unit}"
    return f"{value:.0f}{NBSP}B"


def mib(value: float | None) -> str:
    """MiB of memory; above 1024 as GiB."""
    if value is None:
        return NONE
    if value >= 1024:
        return f"{three(value / 1024)}{NBSP}GiB"
    return f"{value:.0f}{NBSP}MiB"


def duration(seconds: float | None) -> str:
    """0.42 -> ``0.42 s``; 252 -> ``4 min 12 s``; 7500 -> ``2 h 05 min``."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{three(seconds)}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min{NBSP}{rest:02d}{NBSP}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{NBSP}h{NBSP}{minutes:02d}{NBSP}min"


def three(value: float) -> str:
    """Three significant figures, without an exponent: 1.23, 12.3, 123, 1,234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.3g}")  # first: 0.9996 is 1.00, not 1.000
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(rounded)))))
    return f"{rounded:,.{digits}f}"


def moment(unix: float | None) -> str:
    """Unix seconds as ``2026-11-23 18:50:07 UTC``."""
    if unix is None:
        return NONE
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return NONE
