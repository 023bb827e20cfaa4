"""How many threads each process of a run gets on this machine.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os


def cores() -> int:
    """Cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def thread_settings(role: str, sites: int, available: int) -> dict[str, str]:
    """OpenMP's environment for one process.

    Sites compute at the same time, so they share the cores; accelerators serve whichever of them
    waits, and a split job's trainer computes when they are done, so these get all; the
    rest hardly computes. ``PASSIVE`` makes idle threads sleep: spinning ones would steal the cores
    from the process that they wait for.

    Args:
        role: ``client``, ``accelerator``, ``pad-accelerator``, ``trainer`` or anything else.
        sites: number of client enclaves on this machine.
        available: cores to share.
    """
    shares = {
        "client": max(1, available // sites),
        "accelerator": available,
        "pad-accelerator": available,
        "trainer": available,
    }
    threads = shares.get(role, 1)
    return {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
