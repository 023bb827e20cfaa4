"""Work on large arrays piece by piece, so that what one pass leaves is in the cache for the next.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Iterator

PIECE = 1 << 15  # numbers: 256 KiB in double precision, well within a core's cache


def pieces(size: int) -> Iterator[slice]:
    """Slices that cover ``size`` numbers, none longer than ``PIECE``."""
    return (slice(start, min(start + PIECE, size)) for start in range(0, size, PIECE))
