"""``sealtune run`` on one machine, from the first process to the last.

Order: accelerator, enclaves, relay and the sites' nodes start together; when all enclaves are
ready, the relay is shown the aggregator's socket and asks it for work until that is done. A process
that ends early ends the run, but for a node: it is started again, and the relay waits for it as
long as its deadlines allow.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sealtune.errors import SealtuneError
from sealtune.job.event_log import Bye, End, Start
from sealtune.job.events import Error, Event, Memory, Ready
from sealtune.job.scratch import make_scratch, remove_scratch, sweep
from sealtune.job.storage import private_files
from sealtune.launch.child import Inbox, Interrupt
from sealtune.launch.credentials import make_credentials
from sealtune.launch.display import Display
from sealtune.launch.environment import program, versions
from sealtune.launch.flower import Flower
from sealtune.launch.job_facts import JobFacts
from sealtune.launch.memory import MemoryPeak
from sealtune.launch.metrics import MetricsLog, storage_error
from sealtune.launch.ports import check_port, free_port
from sealtune.launch.processes import Interrupted, Processes
from sealtune.launch.progress import Progress
from sealtune.launch.threads import cores, thread_settings

_LEAVE = 3.0  # seconds that client enclaves get to end by themselves after a good run
_FINISH = 15.0  # seconds that they, and then the accelerator, get to end when asked
_RELAY = "flower:relay"
_FLOWER = "flower"
_LAUNCHER = "launcher"


@dataclass(frozen=True)
class Programs:
    """Commands of our own processes; each is given the path of its CONFIG.json. For tests."""

    aggregator: Sequence[str] = tuple(program("aggregator"))
    client: Sequence[str] = tuple(program("site-enclave"))
    accelerator: Sequence[str] = tuple(program("accelerator"))
    split_trainer: Sequence[str] = tuple(program("split-server"))
    split_site: Sequence[str] = tuple(program("owner-site"))


def run(
    resolved_path: Path,
    run_dir: Path,
    *,
    resume: bool = False,
    port: int | None = None,
    console: Console | None = None,
    facts: Mapping[str, Any] | None = None,
    keys: Mapping[str, Path] | None = None,
    programs: Programs | None = None,
) -> None:
    """Run a resolved job from start to end on this machine.

    Args:
        resolved_path: ``job.resolved.json``.
        run_dir: the run's folder, see ``folder.prepare``.
        resume: continue from the sealed checkpoint in ``run_dir``.
        port: of the relay; a free one by default.
        console: where to show progress; the terminal by default.
        facts: more keys for the "start" event, such as ``majority_class``.
        keys: site -> file of its organisation's private key; for a split job.
        programs: commands of our processes.

    Raises:
        PortInUseError: ``port`` is taken.
        ProcessDiedError: a process ended before its time.
        StorageError: the disk is full, or the run folder cannot be written.
        Interrupted: the user pressed Ctrl-C.
        SealtuneError: what an enclave said that went wrong.
    """
    job = JobFacts.read(resolved_path)
    if port is not None:
        check_port(port)
    start = time.monotonic()
    with private_files(), _temporary_folder() as temp, _metrics(run_dir) as metrics:
        metrics.append(_start_event(job, resume, facts or {}))
        outcome = "failed"
        try:
            progress = Progress.begin(job.sites, job.rounds, server_trains=job.split)
            with Display(console or Console(), progress, job.name) as display:
                _Run(job, run_dir, temp, metrics, progress, display, keys or {}).work(
                    programs or Programs(), port, resume=resume
                )
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


def _start_event(job: JobFacts, resume: bool, facts: Mapping[str, Any]) -> Start:
    return Start(
        role=_LAUNCHER,
        versions=versions(),
        seed=job.seed,
        job_id=job.job_id,
        plan_digest=job.plan_digest,
        protect=job.protect,
        sites=job.sites,
        rounds=job.rounds,
        resume=resume,
        **facts,
    )


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A short private folder for sockets and keys; those of runs that were killed go first."""
    sweep()
    folder = make_scratch()
    try:
        yield folder
    finally:
        remove_scratch(folder)


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


class _Run:
    """One run's processes, in their order."""

    def __init__(
        self,
        job: JobFacts,
        run_dir: Path,
        temp: Path,
        metrics: MetricsLog,
        progress: Progress,
        display: Display,
        keys: Mapping[str, Path],
    ) -> None:
        self._job = job
        self._keys = keys
        self._run_dir = run_dir
        self._temp = temp
        self._metrics = metrics
        self._progress = progress
        self._display = display
        self._processes = Processes(run_dir / "logs", self._record, self._tick)
        self._memory = MemoryPeak()

    def work(self, programs: Programs, port: int | None, *, resume: bool) -> None:
        """Start everything, wait for the end of the work, stop everything."""
        processes = self._processes
        with _signals(processes.inbox):
            try:
                self._start_ours(programs, resume)
                self._start_flower(port)
                self._until_ready()
                processes.settled = True
                # The relay looks for this name: now, and not before, it may ask for work.
                self._work_socket.symlink_to(self._socket("server"))
                processes.until(lambda: "server" in processes.ended)
                self._finish()
            except Interrupted:
                self._progress.notices.append("stopping everything (Ctrl-C again: at once)")
                raise
            finally:
                processes.stop_all()

    def _tick(self) -> None:
        self._display.update()
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
        self._progress.apply(self._metrics.append(event))

    def _start_ours(self, programs: Programs, resume: bool) -> None:
        server = {"role": "server", "site": None, "resume": resume}
        if self._job.split:
            self._start_one("server", programs.split_trainer, server, computes_as="trainer")
            for site in self._job.sites:
                owner = {"role": "client", "site": site, "key": str(self._keys[site])}
                self._start_one(_client(site), programs.split_site, owner)
            return
        self._start_one("accelerator", programs.accelerator, {"role": "accelerator", "site": None})
        self._start_one("server", programs.aggregator, server)
        for site in self._job.sites:
            self._start_one(_client(site), programs.client, {"role": "client", "site": site})

    def _start_one(
        self,
        role: str,
        program: Sequence[str],
        config: dict[str, Any],
        *,
        computes_as: str | None = None,
    ) -> None:
        config |= {
            "job": str(self._job.path),
            "socket": str(self._socket(role)),
            **({} if self._job.split else {"accelerator": f"unix:{self._socket('accelerator')}"}),
            "run_dir": str(self._run_dir.resolve()),
        }
        path = self._temp / f"{role.replace(':', '-')}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        share = computes_as or config["role"]
        threads = thread_settings(share, len(self._job.sites), cores())
        self._processes.start(role, [*program, str(path)], threads, events=True)

    def _start_flower(self, port: int | None) -> None:
        sites = self._job.sites
        credentials = make_credentials(self._temp / "keys", sites)
        flower = Flower(self._temp, port or free_port(), credentials)
        extra = flower.environment()
        processes = self._processes
        self._progress.network = "starting the relay"
        relay = flower.relay(self._work_socket)
        processes.start(_RELAY, relay, extra, events=True, bare=True)
        for site in sites:
            spool = self._temp / "spool" / site
            spool.mkdir(parents=True)
            node = flower.node(site, self._socket(_client(site)), spool)
            processes.start(f"flower:node:{site}", node, extra, again=True, bare=True)

    def _until_ready(self) -> None:
        processes = self._processes
        processes.until(lambda: _RELAY in processes.ready)
        self._progress.network = "ready, waiting for the enclaves"
        enclaves = {"server", *map(_client, self._job.sites)}
        if not self._job.split:
            enclaves.add("accelerator")
        processes.until(lambda: enclaves <= processes.ready)

    def _finish(self) -> None:
        """Let our processes end: clients first, since the accelerator serves them."""
        processes = self._processes
        processes.finishing = True
        clients = [_client(site) for site in self._job.sites]

        def gone() -> bool:
            return all(role in processes.ended for role in clients)

        if not processes.until(gone, _LEAVE):
            processes.stop(clients)
            processes.until(gone, _FINISH)
        if not self._job.split:
            processes.stop(["accelerator"])
            processes.until(lambda: "accelerator" in processes.ended, _FINISH)
        self._record(Memory(role=_FLOWER, peak_mib=round(self._memory.mib, 1)))

    @property
    def _work_socket(self) -> Path:
        """Where the relay finds the aggregator."""
        return self._temp / "work.sock"

    def _socket(self, role: str) -> Path:
        if role.startswith("client:"):
            # Site names may be long, and a socket's path may not.
            return self._temp / f"c{self._job.sites.index(role.removeprefix('client:'))}.sock"
        return self._temp / f"{role}.sock"


def _client(site: str) -> str:
    return f"client:{site}"
