"""One child process of a run: its events, its log, its end.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from sealtune.job.event_log import parse
from sealtune.job.events import Event
from sealtune.job.printable import printable

_DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
_MAX_LINE = 1 << 20  # bytes of one event; what is longer is no event of ours
_TAIL = 4096  # bytes of a log looked at for its last lines


@dataclass(frozen=True)
class Exit:
    """The end of a process. ``code`` is negative when a signal ended it."""

    role: str
    code: int


@dataclass(frozen=True)
class Interrupt:
    """The user wants the run to stop."""

    signum: int


@dataclass(frozen=True)
class Failure:
    """A thread of the launcher could not go on."""

    error: Exception


Item = Event | Exit | Interrupt | Failure
Inbox = SimpleQueue[Item]


def tied(command: Sequence[str]) -> list[str]:
    """``command`` such that it ends when this process does, however that ends."""
    return [sys.executable, "-I", "-S", str(_DIE_WITH_PARENT), str(os.getpid()), *command]


@dataclass
class Child:
    """A running child process, in a process group of its own.

    Start it from a thread that lives as long as the run: the kernel takes the end of the starting
    *thread* for the parent's death, and kills the child.

    Attributes:
        role: ``server``, ``client:<site>``, ``accelerator`` or ``flower:...``.
        log: where its stderr goes, and what it says on stdout that is no event.
    """

    role: str
    log: Path
    process: subprocess.Popen[bytes]
    inbox: Inbox
    threads: list[threading.Thread] = field(default_factory=list)
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def start(
        cls,
        role: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        inbox: Inbox,
    ) -> Child:
        """Start ``command``.

        Raises:
            OSError: it cannot be started, or its log cannot be written.
        """
        with log.open("ab") as stream:
            process = subprocess.Popen(
                tied(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stream,
                start_new_session=True,
            )
        child = cls(role, log, process, inbox)
        child._thread(child._wait, child._thread(child._read, process.stdout))
        return child

    def stop(self) -> None:
        """Ask it, and whatever it started, to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, and whatever it started, at once."""
        self._signal(signal.SIGKILL)

    def join(self, timeout: float) -> None:
        """Wait until its threads have said everything."""
        for thread in self.threads:
            thread.join(timeout)

    def tail(self, lines: int = 8) -> str:
        """The last lines of its log."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL))
                text = stream.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(printable(line.rstrip(), 500) for line in text.split("\n")[-lines:])

    def _thread(self, target: Any, *args: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, daemon=True, name=self.role)
        thread.start()
        self.threads.append(thread)
        return thread

    def _signal(self, signum: int) -> None:
        with self.lock:
            if not self.ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signum)

    def _read(self, stream: IO[bytes]) -> None:
        """Turn stdout's JSON lines into events; anything else belongs into the log."""
        try:
            with stream, self.log.open("ab") as log:
                while line := stream.readline(_MAX_LINE):
                    event = parse(line)
                    if event is None:
                        log.write(line)
                        log.flush()
                    else:
                        self.inbox.put(event.model_copy(update={"role": self.role}))
        except OSError as error:
            self.inbox.put(Failure(error))

    def _wait(self, reader: threading.Thread) -> None:
        # Look without reaping: while the dead process holds its id, the group's id cannot become
        # anybody else's, and what it left running can be ended safely.
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        self.kill()
        with self.lock:
            self.ended = True
        code = self.process.wait()
        reader.join(2)  # its last words come before its end
        self.inbox.put(Exit(self.role, code))
