"""Peak memory of Flower's processes, which do not report it themselves.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import psutil

_EVERY = 5.0  # seconds


class MemoryPeak:
    """The highest sum of resident memory that was seen, pages that processes share counted once
    for each."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._next = 0.0

    def sample(self, pids: Iterable[int]) -> None:
        """Look at these processes and what they started, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY
        total = 0
        wanted = set(pids)
        for process in psutil.Process(os.getpid()).children(recursive=True):
            try:
                lineage = {process.pid, *(parent.pid for parent in process.parents())}
                if lineage & wanted:
                    total += process.memory_info().rss
            except psutil.Error:
                continue  # it ended in the meantime
        self.mib = max(self.mib, total / 2**20)
