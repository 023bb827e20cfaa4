"""``sealtune run`` on one machine, from the first process to the last.

Order: accelerators, enclaves, relay and the sites' nodes start together; when all enclaves are
ready, the relay is shown the aggregator's socket and asks it for work until that is done. A process
that ends early ends the run, but for a node: it is started again, and the relay waits for it as
long as its deadlines allow.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sealtune.job.dsse import Envelope
from sealtune.job.local import Local
from sealtune.job.local_file import anchored
from sealtune.job.manifest import job_id, open_manifest
from sealtune.job.method import method_of
from sealtune.job.scratch import scratch_folder
from sealtune.launch.credentials import make_credentials
from sealtune.launch.domain import role_of
from sealtune.launch.flower import RELAY, Flower
from sealtune.launch.parties import command, domain_of
from sealtune.launch.ports import check_port, free_port
from sealtune.launch.progress import Progress
from sealtune.launch.stage import Stage, staged, start_event

_LEAVE = 3.0  # seconds that client enclaves get to end by themselves after a good run
_FINISH = 15.0  # seconds that they, and then the accelerator, get to end when asked


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
    envelope = Envelope.read(parties[0].manifest)
    manifest = open_manifest(envelope)
    job, method = manifest.settings.job, method_of(manifest.method)
    resume = any(party.resume for party in parties)
    identity, programs = job_id(envelope.payload), list(manifest.programs.values())
    start = start_event(manifest, identity, programs, resume=resume, **(facts or {}))
    progress = Progress.begin(
        manifest.settings.sites.names,
        job.rounds,
        server_trains=method.server_trains,
        server_name="server enclave" if method.attested else "server, no TEE",
        accelerator="loading" if manifest.settings.accelerated else "",
        pads="loading" if manifest.pad_accelerators else "",
    )
    shown = console or Console()
    with (
        scratch_folder() as temp,
        staged(parties[0].folder, start, progress, shown, job.name) as stage,
    ):
        placed = [anchored(party, temp) for party in parties]
        _Run(placed, command, temp, stage).work(port)


@dataclass
class _Run:
    """One run's processes, in their order."""

    parties: Sequence[Local]
    command: Callable[[Local], Sequence[str]]
    temp: Path
    stage: Stage

    def __post_init__(self) -> None:
        self._sites = {role_of(party): party for party in self.parties if party.role == "site"}
        self._processes = self.stage.processes

    def work(self, port: int | None) -> None:
        """Start everything, wait for the end of the work, let everything end."""
        processes = self._processes
        for party in self.parties:
            processes.start(domain_of(party, self.command(party), len(self._sites)))
        self._start_flower(port)
        self._until_ready()
        processes.settled = True
        # The relay looks for this name: now, and not before, it may ask for work.
        server = next(party for party in self.parties if party.role == "server")
        self._work_socket.symlink_to(server.listen)
        processes.until(lambda: "server" in processes.ended)
        self._finish()

    def _start_flower(self, port: int | None) -> None:
        sites = {party.site or "": party for party in self._sites.values()}
        credentials = make_credentials(self.temp / "keys", tuple(sites))
        flower = Flower(self.temp, port or free_port(), credentials)
        self.stage.progress.network = "starting the relay"
        self._processes.start(flower.relay(self._work_socket))
        for site, party in sites.items():
            self._processes.start(flower.node(site, party.listen), again=True)

    def _until_ready(self) -> None:
        processes = self._processes
        processes.until(lambda: RELAY in processes.ready)
        self.stage.progress.network = "ready, waiting for the enclaves"
        enclaves = set(map(role_of, self.parties))
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
        if helpers := [party.role for party in self.parties if party.accelerates]:
            processes.stop(helpers)
            processes.until(lambda: all(one in processes.ended for one in helpers), _FINISH)
        self.stage.record_memory()

    @property
    def _work_socket(self) -> Path:
        """Where the relay finds the aggregator."""
        return self.temp / "work.sock"
