"""What an enclave process tells its operator: JSON lines on stdout, and its exit code.

Only what ``sealtune.job.events`` has a field for leaves the enclave this way.

Trust domain: every enclave.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType

from sealtune.attest import Claims
from sealtune.errors import SealtuneError
from sealtune.job.events import Attested, Done, Error, Event, Memory
from sealtune.memory import peak_mib

Emit = Callable[[Event], None]
"""Sends one event."""


class EventLines:
    """Writes events to a file descriptor, one line each, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Send one event."""
        line = json.dumps(event.fields(), allow_nan=False) + "\n"
        with self._lock:
            rest = line.encode()
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class Stop(BaseException):
    """The operator asked this process to end (SIGTERM or SIGINT)."""


def run_program(work: Callable[[EventLines], None]) -> int:
    """Run an enclave's program, turn how it ends into events, and return the exit code.

    Events go to the real stdout; whatever else is printed there goes to stderr, so that no library
    can break the lines.
    """
    events = EventLines(os.dup(1))
    os.dup2(2, 1)
    _stop_on_signals()
    code = 0
    try:
        work(events)
    except Stop:
        pass
    except BrokenPipeError:
        return 1  # nobody listens any more
    except SealtuneError as error:
        code = error.exit_code
        events(Error.of(error))
    except Exception as error:
        code = 1
        # the text of an unforeseen error might quote data, so only its place is shown
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
        print("".join(traceback.format_list(frames)), file=sys.stderr, flush=True)
        message = f"unforeseen {type(error).__name__} at {place}"
        hint = "this is a fault in sealtune: please report it with the log"
        events(Error(code=1, error=type(error).__name__, message=message, hint=hint))
    events(Memory(peak_mib=peak_mib()))
    if code == 0:
        events(Done())
    return code


def _stop_on_signals() -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise Stop

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def emit_attested(emit: Emit, claims: Claims, *, who: str, by: str, job_id: str) -> None:
    """Say that ``by`` has verified ``who``."""
    kind, confidential, gpus = str(claims.kind), claims.confidential, len(claims.gpu)
    emit(Attested(who=who, by=by, kind=kind, confidential=confidential, job_id=job_id, gpus=gpus))
