"""How many threads each process of a run gets on this machine, and in what pages its memory comes.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os

# Tensors of a step come and go, each in fresh pages of 4 KiB: 74,000 faults a masked step of
# SmolLM2-135M. In pages of 2 MiB it is 1,700. A site's enclave has to be small and does without:
# loading takes 210 MiB more with them. glibc could also keep what is freed, but holes between
# tensors then double the peak at worst. Where there are no such pages, nothing changes.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def cores() -> int:
    """Cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def thread_settings(role: str, sites: int, available: int) -> dict[str, str]:
    """OpenMP's environment for one process, and the allocator's if it computes.

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
    settings = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(shares.get(role, 1))}
    return settings | _LARGE_PAGES if role in shares.keys() - {"client"} else settings
