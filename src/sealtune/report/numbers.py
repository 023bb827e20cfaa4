"""Numbers as people read them. ``None`` is shown as an en dash.

Trust domain: server operator.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sealtune.job import units

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


def short(value: float | None, digits: int = 3) -> str:
    """So many digits and no zeros behind them: 1e-05, 2.53."""
    return NONE if value is None else f"{value:.{digits}g}"


def times(value: float | None) -> str:
    """A ratio of times: 1.324 -> ``1.32 × as long``."""
    return NONE if value is None else f"{value:,.2f}{NBSP}× as long"


def size(value: float | None) -> str:
    """Bytes: 48_100_000 -> ``45.9 MiB``."""
    return NONE if value is None else units.size(value).replace(" ", NBSP)


def mib(value: float | None) -> str:
    """MiB of memory."""
    return NONE if value is None else size(value * 2**20)


def duration(seconds: float | None) -> str:
    """252 -> ``4 min 12 s``."""
    return NONE if seconds is None else units.duration(seconds).replace(" ", NBSP)


def of(done: int, planned: int | None) -> str:
    """3, 5 -> ``3 of 5``; what was planned is left out where it is not known."""
    return str(done) if planned is None else f"{done} of {planned}"


def moment(unix: float | None) -> str:
    """Unix seconds as ``2026-11-23 18:50:07 UTC``."""
    if unix is None:
        return NONE
    try:
        return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return NONE
