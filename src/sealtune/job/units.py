"""Sizes and durations for people: the same words in terminal, report and advice.

Trust domain: every process.
"""

from __future__ import annotations

import math

_SIZES = ("KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes, in binary units with three figures: 48_100_000 -> ``45.9 MiB``."""
    value, unit = count, "B"
    for larger in _SIZES:
        if value < 999.5:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{three(value)} {unit}"


def duration(seconds: float) -> str:
    """0.42 -> ``0.42 s``; 42.3 -> ``42 s``; 252 -> ``4 min 12 s``; 7500 -> ``2 h 05 min``."""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def three(value: float) -> str:
    """Three significant figures, without an exponent: 1.23, 12.3, 123, 1,234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.3g}")  # first: 0.9996 is 1.00, not 1.000
    digits = min(3, max(0, 2 - math.floor(math.log10(abs(rounded)))))
    return f"{rounded:,.{digits}f}"
