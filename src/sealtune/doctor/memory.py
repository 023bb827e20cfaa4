"""Memory, and the ways in which it leaves a process: swap, hibernation, core dumps, debuggers.

For an enclave on hardware these are no danger. A data owner's program without one, and everything
that is simulated, has nothing else.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import re

from sealtune.doctor.finding import Finding, State, found, safe
from sealtune.doctor.machine import Machine

GIB = 2**30
_LITTLE, _LEAST = 8, 2  # GiB
_LOCKED = 64 * 2**20
_SHARED = GIB


def memory(machine: Machine) -> list[Finding]:
    """Everything on memory."""
    return [_amount(machine), _locked(machine), _shared(machine), *_leaks(machine)]


def _amount(machine: Machine) -> Finding:
    info = machine.text("proc/meminfo") or ""
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", info, re.M)}
    total = sizes.get("MemTotal")
    if total is None:
        return Finding("memory", State.UNKNOWN, "cannot be read", "mount /proc")
    limit = machine.text("sys/fs/cgroup/memory.max") or ""
    usable = min(total, int(limit)) if limit.isdecimal() else total
    words = f"{usable / GIB:.1f} GiB"
    if usable < total:
        words += f" of {total / GIB:.1f} GiB (control group)"
    if (free := sizes.get("MemAvailable")) is not None:
        words += f", {min(free, usable) / GIB:.1f} GiB available"
    remedy = "sealtune advise tells what a job needs; a small model needs some 4 GiB"
    state = (
        State.GOOD
        if usable >= _LITTLE * GIB * 0.9  # firmware and kernel keep a part
        else State.POOR
        if usable >= _LEAST * GIB * 0.9
        else State.MISSING
    )
    return Finding("memory", state, words, remedy, value=usable)


def _locked(machine: Machine) -> Finding:
    limit = _limit(machine, "Max locked memory")
    words = "limit of locked memory " + (
        "not told" if limit is None else "none" if limit < 0 else f"{limit / 2**20:.0f} MiB"
    )
    enough = None if limit is None else limit < 0 or limit >= _LOCKED
    remedy = f"LimitMEMLOCK={_LOCKED >> 20}M or more in the unit: guests and GPUs pin memory"
    return found("memory.locked", enough, words, remedy, value=limit)


def _limit(machine: Machine, name: str) -> int | None:
    """The soft limit of this process; -1: none."""
    text = machine.text("proc/self/limits") or ""
    match = re.search(rf"^{name}\s+(\S+)", text, re.M)
    if match is None:
        return None
    return -1 if match[1] == "unlimited" else int(match[1]) if match[1].isdecimal() else None


def _shared(machine: Machine) -> Finding:
    there = machine.exists("dev/shm")
    words = "/dev/shm" if there else "no /dev/shm"
    return found("memory.shared", there, words, "mount -t tmpfs tmpfs /dev/shm")


def _leaks(machine: Machine) -> list[Finding]:
    swaps = machine.text("proc/swaps")
    used = None if swaps is None else [line.split()[0] for line in swaps.splitlines()[1:]]
    modes = (machine.text("sys/power/state") or "").split()
    off = machine.text("sys/power/disk") in (None, "", "[disabled]", "disabled")
    sleeps = "disk" in modes and not off
    pattern = machine.text("proc/sys/kernel/core_pattern")
    size = _limit(machine, "Max core file size")
    dumps = None if pattern is None else bool(pattern) and (pattern.startswith("|") or size != 0)
    scope = machine.text("proc/sys/kernel/yama/ptrace_scope")
    return [
        safe(
            "swap",
            None if used is None else not used,
            f"swap on {', '.join(used)}" if used else "no swap" if used == [] else "swap not told",
            "swapoff -a, and take it out of /etc/fstab; or encrypt it with a random key: memory of "
            "programs without an enclave is written there",
            tuple(used) if used is not None else None,
        ),
        safe(
            "hibernation",
            not sleeps,
            "can hibernate" if sleeps else "cannot hibernate",
            "systemctl mask hibernate.target hybrid-sleep.target: it writes all memory to the disk",
            sleeps,
        ),
        safe(
            "core-dumps",
            None if dumps is None else not dumps,
            f"core dumps go to {pattern}"
            if dumps
            else "no core dumps"
            if dumps is False
            else "not told",
            "sysctl kernel.core_pattern= and LimitCORE=0 in the unit: a dump holds all secrets",
            dumps,
        ),
        safe(
            "ptrace",
            int(scope) > 0 if scope and scope.isdecimal() else False,
            f"ptrace scope {scope}" if scope else "no ptrace scope",
            "sysctl kernel.yama.ptrace_scope=1 or more: otherwise each program of the same user "
            "can read the memory of every other",
            scope,
        ),
    ]
