"""Ties a process to the launcher, then becomes the program it was asked to start.

    python -I -S die_with_parent.py LAUNCHER_PID PROGRAM ARGUMENT...

The kernel kills the program when the launcher is gone, however it went. A file of its own, and not
a ``preexec_fn``, because code between fork and exec of a process with threads may hang.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(arguments: list[str]) -> None:
    """Become the program. Does not return."""
    launcher, program = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it went before the kernel was told
        sys.exit(1)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
