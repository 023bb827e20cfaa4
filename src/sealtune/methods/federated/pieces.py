"""Work on large tensors: in threads, and piece by piece, so that what one pass over the numbers
leaves is in the cache for the next.

Trust domain: server enclave.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

PIECE = 1 << 15  # numbers: 256 KiB in double precision, within a core's cache
_WORTH_A_THREAD = 1 << 18  # numbers
_T = TypeVar("_T")


def pieces(size: int) -> Iterator[slice]:
    """Slices that cover ``size`` numbers, none longer than ``PIECE``."""
    return (slice(start, min(start + PIECE, size)) for start in range(0, size, PIECE))


def in_threads(work: Callable[[Sequence[str]], _T], sizes: Mapping[str, int]) -> list[_T]:
    """Call ``work`` once for each share of the tensors, all at a time; numpy computes without
    the interpreter's lock.

    Args:
        work: for some names; it must not matter which ones come together.
        sizes: name -> how many numbers.
    """
    cores = len(os.sched_getaffinity(0))
    shares = max(1, min(cores, sum(sizes.values()) // _WORTH_A_THREAD))
    share, shared, done = sum(sizes.values()) / shares, [list[str]() for _ in range(shares)], 0
    for name, size in sizes.items():
        shared[min(int(done / share), shares - 1)].append(name)
        done += size
    return [work(shared[0])] if shares == 1 else list(_threads(cores).map(work, shared))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count)
