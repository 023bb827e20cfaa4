"""``sealtune run`` on one machine, from the first process to the last.

Order: accelerator, enclaves, relay and the sites' nodes start together; when all enclaves are
ready, the relay is shown the aggregator's socket and asks it for work until that is done. A process
that ends early ends the run, but for a node: it is started again, and the relay waits for it as
long as its deadlines allow.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sealtune.errors import SealtuneError
from sealtune.job.dsse import Envelope
from sealtune.job.event_log import Bye, End, Start
from sealtune.job.events import Error, Event, Memory, Ready
from sealtune.job.local import Local
from sealtune.job.local_file import anchored
from sealtune.job.manifest import Manifest, job_id, open_manifest
from sealtune.job.method import method_of
from sealtune.job.private import private_files
from sealtune.job.scratch import scratch_folder
from sealtune.launch.child import Inbox, Interrupt
from sealtune.launch.credentials import make_credentials
from sealtune.launch.display import Display
from sealtune.launch.environment import versions
from sealtune.launch.flower import Flower
from sealtune.launch.memory import MemoryPeak
from sealtune.launch.metrics import MetricsLog, storage_error
from sealtune.launch.parties import command
from sealtune.launch.ports import check_port, free_port
from sealtune.launch.processes import Interrupted, Processes
from sealtune.launch.progress import Progress
from sealtune.launch.threads import cores, thread_settings
from sealtune.programs.facts import lines_at_start

_LEAVE = 3.0  # seconds that client enclaves get to end by themselves after a good run
_FINISH = 15.0  # seconds that they, and then the accelerator, get to end when asked
_RELAY = "flower:relay"
_FLOWER = "flower"
_LAUNCHER = "launcher"


def run(
    parties: Sequence[Local],
    *,
    port: int | None = None,
    console: Console | None = None,
    facts: Mapping[str, Any] | None = None,
    command: Callable[[Local], Sequence[str]] = command,
) -> None:
    """Run a job from start to end on this machine.

    Args:
        parties: of ``parties.line_up``; they share the run's folder (``folder.prepare``).
        port: of the relay; a free one by default.
        console: where to show progress; the terminal by default.
        facts: more keys for the "start" event, such as ``majority_class``.
        command: what starts a party's program.

    Raises:
        PortInUseError: ``port`` is taken.
        ProcessDiedError: a process ended before its time.
        StorageError: the disk is full, or the run folder cannot be written.
        Interrupted: the user pressed Ctrl-C.
        SealtuneError: what an enclave said that went wrong.
    """
    if port is not None:
        check_port(port)
    run_dir = parties[0].folder
    envelope = Envelope.read(parties[0].manifest)
    manifest = open_manifest(envelope)
    job = manifest.settings.job
    sites = manifest.settings.sites.names
    resume = any(party.resume for party in parties)
    method = method_of(manifest.method)
    start = time.monotonic()
    with private_files(), scratch_folder() as temp, _metrics(run_dir) as metrics:
        identity = job_id(envelope.payload)
        metrics.append(_start_event(manifest, identity, resume, facts or {}))
        outcome = "failed"
        try:
            progress = Progress.begin(
                sites,
                job.rounds,
                server_trains=method.server_trains,
                server_name="server enclave" if method.attested else "server, no TEE",
                accelerator="loading" if method.accelerated else "",
            )
            with Display(console or Console(), progress, job.name) as display:
                placed = [anchored(party, temp) for party in parties]
                _Run(placed, command, temp, metrics, progress, display).work(port)
            outcome = "ok"
        except Interrupted:
            outcome = "interrupted"
            raise
        except OSError as error:
            failure = storage_error(Path(error.filename or run_dir), error)
            _record_failure(metrics, failure)
            raise failure from error
        except SealtuneError as error:
            _record_failure(metrics, error)
            raise
        finally:
            seconds = round(time.monotonic() - start, 3)
            with contextlib.suppress(SealtuneError):  # an earlier error is the one to tell
                metrics.append(End(role=_LAUNCHER, outcome=outcome, seconds=seconds))


def _record_failure(metrics: MetricsLog, error: SealtuneError) -> None:
    """The first cause goes last among the errors on record."""
    with contextlib.suppress(SealtuneError):
        metrics.append(Error.of(error).model_copy(update={"role": _LAUNCHER}))


def _start_event(
    manifest: Manifest, identity: str, resume: bool, facts: Mapping[str, Any]
) -> Start:
    settings = manifest.settings
    return Start(
        role=_LAUNCHER,
        versions=versions(),
        code={program: lines_at_start(program) for program in manifest.programs.values()},
        seed=settings.job.seed,
        job_id=identity,
        plan_digest=manifest.plan_digest,
        protect=manifest.plan.protect,
        sites=settings.sites.names,
        rounds=settings.job.rounds,
        resume=resume,
        **facts,
    )


@contextlib.contextmanager
def _metrics(run_dir: Path) -> Iterator[MetricsLog]:
    try:
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(run_dir, error) from error
    log = MetricsLog(run_dir / "metrics.jsonl")
    try:
        yield log
    except BaseException:
        with contextlib.suppress(SealtuneError):
            log.close()
        raise
    log.close()


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


@dataclass
class _Run:
    """One run's processes, in their order."""

    parties: Sequence[Local]
    command: Callable[[Local], Sequence[str]]
    temp: Path
    metrics: MetricsLog
    progress: Progress
    display: Display

    def __post_init__(self) -> None:
        self._sites = {_role(party): party for party in self.parties if party.role == "site"}
        self._processes = Processes(self.parties[0].folder / "logs", self._record, self._tick)
        self._memory = MemoryPeak()

    def work(self, port: int | None) -> None:
        """Start everything, wait for the end of the work, stop everything."""
        processes = self._processes
        with _signals(processes.inbox):
            try:
                self._start_ours()
                self._start_flower(port)
                self._until_ready()
                processes.settled = True
                # The relay looks for this name: now, and not before, it may ask for work.
                self._work_socket.symlink_to(self._server.listen)
                processes.until(lambda: "server" in processes.ended)
                self._finish()
            except Interrupted:
                self.progress.notices.append("stopping everything (Ctrl-C again: at once)")
                raise
            finally:
                processes.stop_all()

    def _tick(self) -> None:
        self.display.update()
        self._memory.sample(
            child.process.pid
            for role, child in self._processes.children.items()
            if role.startswith("flower:")
        )

    def _record(self, event: Event) -> None:
        if event.role == _RELAY:
            if isinstance(event, Ready | Bye):
                return
            event = event.model_copy(update={"role": _FLOWER})
        self.progress.apply(self.metrics.append(event))

    def _start_ours(self) -> None:
        for party in self.parties:
            # a server enclave that has a model trains it
            share = "trainer" if party.role == "server" and party.model else _role(party)
            threads = thread_settings(share.partition(":")[0], len(self._sites), cores())
            self._processes.start(_role(party), self.command(party), threads, events=True)

    def _start_flower(self, port: int | None) -> None:
        sites = tuple(party.site or "" for party in self._sites.values())
        credentials = make_credentials(self.temp / "keys", sites)
        flower = Flower(self.temp, port or free_port(), credentials)
        extra = flower.environment()
        processes = self._processes
        self.progress.network = "starting the relay"
        relay = flower.relay(self._work_socket)
        processes.start(_RELAY, relay, extra, events=True, bare=True)
        for site, party in zip(sites, self._sites.values(), strict=True):
            spool = self.temp / "spool" / site
            spool.mkdir(parents=True)
            node = flower.node(site, Path(party.listen), spool)
            processes.start(f"flower:node:{site}", node, extra, again=True, bare=True)

    def _until_ready(self) -> None:
        processes = self._processes
        processes.until(lambda: _RELAY in processes.ready)
        self.progress.network = "ready, waiting for the enclaves"
        enclaves = set(map(_role, self.parties))
        processes.until(lambda: enclaves <= processes.ready)

    def _finish(self) -> None:
        """Let our processes end: clients first, since the accelerator serves them."""
        processes = self._processes
        processes.finishing = True
        clients = list(self._sites)

        def gone() -> bool:
            return all(role in processes.ended for role in clients)

        if not processes.until(gone, _LEAVE):
            processes.stop(clients)
            processes.until(gone, _FINISH)
        if any(party.role == "accelerator" for party in self.parties):
            processes.stop(["accelerator"])
            processes.until(lambda: "accelerator" in processes.ended, _FINISH)
        self._record(Memory(role=_FLOWER, peak_mib=round(self._memory.mib, 1)))

    @property
    def _work_socket(self) -> Path:
        """Where the relay finds the aggregator."""
        return self.temp / "work.sock"

    @property
    def _server(self) -> Local:
        return next(party for party in self.parties if party.role == "server")


def _role(party: Local) -> str:
    """What events call the party's process."""
    return f"client:{party.site}" if party.site else party.role
