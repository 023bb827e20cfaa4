"""The system calls that make a host, which Python 3.11 has no functions for.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import ctypes
import os
import signal

NEW_MOUNTS, NEW_NAMES, NEW_IPC = 0x00020000, 0x04000000, 0x08000000  # <linux/sched.h>
NEW_PROCESSES, NEW_NETWORK = 0x20000000, 0x40000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18  # <linux/mount.h>
SYS_ADMIN = 21  # <linux/capability.h>
_DEATH_SIGNAL, _DROP_FROM_BOUND = 1, 24  # <linux/prctl.h>
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter_network(path: str) -> None:
    """Move this thread into the network namespace of a file such as ``/proc/1/ns/net``."""
    with open(path, "rb") as file:
        _check(_libc.setns(file.fileno(), NEW_NETWORK), f"cannot enter {path}")


def unshare(flags: int) -> None:
    """Leave the namespaces of ``flags`` for new ones."""
    _check(_libc.unshare(flags), "cannot make namespaces")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0) -> None:
    """Mount ``source`` at ``target``."""
    words = kind.encode() if kind else None
    result = _libc.mount(source.encode(), target.encode(), words, ctypes.c_ulong(flags), None)
    _check(result, f"cannot mount {target}")


def name_host(name: str) -> None:
    """Set the host's name of this namespace."""
    words = name.encode()
    _check(_libc.sethostname(words, len(words)), "cannot name the host")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone."""
    _check(_libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "cannot be tied to the parent")


def give_up(capability: int) -> None:
    """Nothing that this process becomes has ``capability``."""
    _check(_libc.prctl(_DROP_FROM_BOUND, capability, 0, 0, 0), "cannot give up a capability")
