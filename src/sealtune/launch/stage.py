"""What a run and a single party's command have in common: processes that are watched, events that
are kept and shown, signals that end it all in good order.

    with staged(folder, start, view, console) as stage:
        stage.processes.start(domain)
        stage.processes.until(lambda: "server" in stage.processes.ended)

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from sealtune.errors import SealtuneError
from sealtune.job.event_log import Bye, End, Start
from sealtune.job.events import Error, Event, Memory, Ready
from sealtune.job.manifest import Manifest
from sealtune.job.private import private_files
from sealtune.launch.child import Inbox, Interrupt
from sealtune.launch.display import Display
from sealtune.launch.domain import GLUE
from sealtune.launch.environment import versions
from sealtune.launch.memory import MemoryPeak
from sealtune.launch.metrics import MetricsLog, storage_error
from sealtune.launch.processes import Interrupted, Processes
from sealtune.launch.progress import Progress
from sealtune.programs.facts import lines_at_start

LAUNCHER = "launcher"
FLOWER = "flower"  # what the events of the network engine's programs are kept under

Sink = Callable[[Event], None]


@dataclass
class Stage:
    """The processes of a job on this machine, from the first start to the last end.

    Attributes:
        folder: of results and logs.
        metrics: keeps the events.
        progress: what they add up to.
        display: shows it.
        sink: told every event that was kept.
    """

    folder: Path
    metrics: MetricsLog
    progress: Progress
    display: Display
    sink: Sink
    processes: Processes = field(init=False)
    _memory: MemoryPeak = field(default_factory=MemoryPeak)

    def __post_init__(self) -> None:
        self.processes = Processes(self.folder / "logs", self.record, self._tick)

    def record(self, event: Event) -> None:
        """Keep an event and show what follows from it."""
        if event.role.startswith(GLUE):
            if isinstance(event, Ready | Bye):
                return
            event = event.model_copy(update={"role": FLOWER})
        kept = self.metrics.append(event)
        self.progress.apply(kept)
        self.sink(kept)

    def record_memory(self) -> None:
        """Keep how much memory the network engine has had."""
        self.record(Memory(role=FLOWER, peak_mib=round(self._memory.mib, 1)))

    def _tick(self) -> None:
        self.display.update()
        self._memory.sample(
            child.process.pid
            for role, child in self.processes.children.items()
            if role.startswith(GLUE)
        )


@contextlib.contextmanager
def staged(
    folder: Path,
    start: Start,
    progress: Progress,
    console: Console,
    title: str,
    sink: Sink = lambda event: None,
) -> Iterator[Stage]:
    """A stage from its "start" event to its "end"; after the block nothing runs any more.

    Args:
        folder: of results and logs.
        start: the first event.
        progress: of what is to be done.
        console: where it is shown.
        title: above it.
        sink: told every event that was kept.

    Raises:
        StorageError: the disk is full, or the folder cannot be written, or is in use.
        Interrupted: the user wants it to end.
        SealtuneError: what the block raises.
    """
    begun = time.monotonic()
    with private_files(), _metrics(folder) as metrics:
        sink(metrics.append(start))
        outcome = "failed"
        try:
            with Display(console, progress, title) as display:
                stage = Stage(folder, metrics, progress, display, sink)
                with _signals(stage.processes.inbox), _stopping(stage):
                    yield stage
            outcome = "ok"
        except Interrupted:
            outcome = "interrupted"
            raise
        except OSError as error:
            failure = storage_error(Path(error.filename or folder), error)
            _record_failure(metrics, sink, failure)
            raise failure from error
        except SealtuneError as error:
            _record_failure(metrics, sink, error)
            raise
        finally:
            seconds = round(time.monotonic() - begun, 3)
            with contextlib.suppress(SealtuneError):  # an earlier error is the one to tell
                sink(metrics.append(End(role=LAUNCHER, outcome=outcome, seconds=seconds)))


def start_event(manifest: Manifest, identity: str, programs: list[str], **facts: object) -> Start:
    """The first event of a run, or of a party's part in it.

    Args:
        identity: the job's id.
        programs: of which the lines of code are stated.
        facts: more keys.
    """
    settings = manifest.settings
    given = {
        "versions": versions(),
        "code": {program: lines_at_start(program) for program in programs},
        "seed": settings.job.seed,
        "job_id": identity,
        "plan_digest": manifest.plan_digest,
        "protect": manifest.plan.protect,
        "sites": settings.sites.names,
        "rounds": settings.job.rounds,
    }
    return Start.model_validate({"role": LAUNCHER, **given, **facts})


def _record_failure(metrics: MetricsLog, sink: Sink, error: SealtuneError) -> None:
    """The first cause goes last among the errors on record."""
    with contextlib.suppress(SealtuneError):
        sink(metrics.append(Error.of(error).model_copy(update={"role": LAUNCHER})))


@contextlib.contextmanager
def _metrics(folder: Path) -> Iterator[MetricsLog]:
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    log = MetricsLog(folder / "metrics.jsonl")
    try:
        yield log
    except BaseException:
        with contextlib.suppress(SealtuneError):
            log.close()
        raise
    log.close()


@contextlib.contextmanager
def _stopping(stage: Stage) -> Iterator[None]:
    """Let nothing of it survive the block."""
    try:
        yield
    except Interrupted:
        stage.progress.notices.append("stopping everything (Ctrl-C again: at once)")
        raise
    finally:
        stage.processes.stop_all()


@contextlib.contextmanager
def _signals(inbox: Inbox) -> Iterator[None]:
    """Turn the signals that ask for an end into items of the inbox."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may; then somebody else owns the signals
        return

    def handler(signum: int, frame: object) -> None:
        inbox.put(Interrupt(signum))  # SimpleQueue.put may be called from a signal handler

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
