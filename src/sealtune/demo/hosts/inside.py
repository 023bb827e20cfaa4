"""Becomes a process of a host: in its network, with its files and no other host's.

    python -I -m sealtune.demo.hosts.inside SETTINGS

Three processes: this one outside, which hands signals and the exit code on; the first of the new
process namespace, with whose end the kernel ends all others; and the command. When the one who made
the hosts is gone, a pipe of his ends, and everything with it.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sealtune.demo.hosts import kernel

_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOT_FOUND = 127  # as shells say


def arrange_files(given: Mapping[str, Any]) -> None:
    """Mount what the host has over what the machine has, in this mount namespace.

    Args:
        given: ``root`` (of all hosts' folders), ``folder`` (the host's own), ``temporary`` (its
            ``/tmp``), ``shared`` (paths that all hosts can read), ``hidden`` (folders that none
            sees).
    """
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    # held open, since what is mounted next may lie over them
    held = {path: os.open(path, os.O_PATH) for path in (given["folder"], *given["shared"])}
    kernel.mount(given["temporary"], "/tmp", flags=kernel.BIND)
    for place in ("/dev/shm", *filter(os.path.isdir, given["hidden"])):
        kernel.mount("none", place, "tmpfs")
    os.makedirs(given["root"], exist_ok=True)
    kernel.mount("none", given["root"], "tmpfs")
    for path, descriptor in held.items():
        source = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(source):
            os.makedirs(path, exist_ok=True)
        elif not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_CREAT))
        kernel.mount(source, path, flags=kernel.BIND)
        if path != given["folder"]:
            flags = kernel.BIND | kernel.REMOUNT | kernel.READ_ONLY
            kernel.mount("none", path, flags=flags)
        os.close(descriptor)
    kernel.mount("proc", "/proc", "proc")


def run_first(given: Mapping[str, Any]) -> int:
    """Be the first process of the host's namespace; returns the command's exit code."""
    kernel.die_with_parent()
    arrange_files(given)
    kernel.name_host(given["name"])
    kernel.give_up(kernel.SYS_ADMIN)  # so that nothing inside can take a mount away again
    child = os.fork()
    if child == 0:
        os.chdir(given["cwd"])
        _become(given["command"])
    _hand_on(lambda number: os.kill(child, number))
    while True:
        ended, status = os.wait()
        if ended == child:
            return _code(status)


def _become(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(_NOT_FOUND)


def _hand_on(to: Callable[[int], None]) -> None:
    def handler(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            to(number)

    for number in _HANDED_ON:
        signal.signal(number, handler)


def _code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def main(settings: str) -> int:
    """Make the namespaces, start the first process in them, and wait for its end."""
    given = json.loads(settings)
    kernel.enter_network(given["network"])
    kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_NAMES | kernel.NEW_IPC | kernel.NEW_PROCESSES)
    first = os.fork()
    if first == 0:
        os.close(given["lifeline"])
        os._exit(run_first(given))
    _hand_on(lambda number: os.kill(first, number))
    ended = os.pidfd_open(first)
    if ended not in select.select([ended, given["lifeline"]], [], [])[0]:
        os.kill(first, signal.SIGKILL)
    return _code(os.waitpid(first, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
