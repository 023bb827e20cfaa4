"""How much memory this process has used at most.

Trust domain: every process.
"""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """Largest resident set so far, in MiB.

    From ``/proc``: ``getrusage`` would report the launcher's peak if that was larger, since the
    figure survives fork and exec.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
