"""How a machine is read: its pseudo files, and the few things that have to be tried.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune.errors import OffloadError

ROOT = Path("/")
_LARGEST = 1 << 20  # bytes read of a file; /proc/cpuinfo of many cores is the longest
_PATIENCE = 10.0  # seconds for another program
_PROGRAMS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_CLOCK = struct.Struct("<I4xqqqqi")  # struct timex: modes, offset, frequency, two errors, status
_UNSYNCHRONISED = 0x40


@dataclass(frozen=True)
class Clock:
    """What the kernel knows of its clock.

    Attributes:
        synchronised: whether a time service disciplines it.
        error: seconds by which it may be wrong.
    """

    synchronised: bool
    error: float


@dataclass(frozen=True)
class Machine:
    """A machine to look at. With a ``root`` of one's own nothing is tried that is not given.

    Attributes:
        root: of the file system.
        run: the output of a command, or None.
        clock: see `Clock`; None where it cannot be read.
        kvm: what running one instruction under KVM ended with, such as "works".
        nvml: the ``pynvml`` module, or None.
        arithmetic: how integers are multiplied exactly here, or why that is not known.
        library: instructions that the C library uses, ``off`` without one; and why.
    """

    root: Path
    run: Callable[[tuple[str, ...]], str | None] = lambda _words: None
    clock: Callable[[], Clock | None] = lambda: None
    kvm: Callable[[], str | None] = lambda: None
    nvml: Callable[[], Any | None] = lambda: None
    arithmetic: Callable[[], str | None] = lambda: None
    library: Callable[[], tuple[str, str | None] | None] = lambda: None

    def text(self, name: str) -> str | None:
        """The text of a file below the root; None if it cannot be read."""
        try:
            with (self.root / name).open("rb") as file:
                return file.read(_LARGEST).decode("utf-8", "replace").strip()
        except OSError:
            return None

    def exists(self, name: str) -> bool:
        """Whether there is such a file below the root."""
        try:
            return (self.root / name).exists()
        except OSError:
            return False

    def names(self, folder: str) -> list[str]:
        """What lies in a folder, in order; nothing if it cannot be read."""
        try:
            return sorted(path.name for path in (self.root / folder).iterdir())
        except OSError:
            return []

    def has_program(self, name: str) -> bool:
        """Whether a program is installed where Debian's packages put them, or beside Python."""
        return any(self.exists(f"{folder}/{name}") for folder in _PROGRAMS)

    def setting(self, name: str) -> bool:
        """Whether a parameter of a kernel module is on."""
        return (self.text(f"sys/module/{name}") or "").lower() in ("y", "1", "yes", "on")


def this_machine(*, fast: bool = False) -> Machine:
    """The machine that this process runs on.

    Args:
        fast: leave out what loads torch.
    """
    return Machine(
        ROOT,
        _output,
        _kernel_clock,
        _try_kvm,
        _pynvml,
        (lambda: None) if fast else _arithmetic,
        (lambda: None) if fast else _library,
    )


def _output(words: tuple[str, ...]) -> str | None:
    """Standard output of a command that ended well in time."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=True,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout[:_LARGEST].decode("utf-8", "replace")


def _kernel_clock() -> Clock | None:
    """From adjtimex(2), which only reads as long as ``modes`` is zero."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    buffer = ctypes.create_string_buffer(512)
    if call is None or call(buffer) < 0:
        return None
    *_, largest, _, status = _CLOCK.unpack_from(buffer.raw)
    return Clock(not status & _UNSYNCHRONISED, largest / 1e6)


def _try_kvm() -> str:
    """Run one instruction in a child: a kernel that never comes back must not hold us."""
    words = (sys.executable, "-I", "-B", str(Path(__file__).with_name("kvm.py")))
    return (_output(words) or "no answer").strip()


def _pynvml() -> Any | None:
    with contextlib.suppress(ImportError):
        return importlib.import_module("pynvml")
    return None


def _arithmetic() -> str:
    try:
        import torch

        from sealtune.offload.kernels import arithmetic

        return arithmetic(torch.device("cpu"))
    except ImportError as error:
        return f"not tried: {error}"
    except Exception as error:  # of any kind: a finding
        return f"failed: {error}"


def _library() -> tuple[str, str | None]:
    try:
        import torch  # noqa: F401  # brings the threads that the library uses

        from sealtune.native.library import instructions, why_off

        return instructions(), why_off()
    except (ImportError, OffloadError) as error:
        return "off", str(error)
