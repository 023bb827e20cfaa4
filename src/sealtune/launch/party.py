"""One party of a job on a host of its own: its program, and the network engine's beside it.

Both are started again when they die, unless they say why that would not help. The party ends when
the job is done: the server with its enclave, the coordinator with its relay, a site when the result
has been released to it and the coordinator is gone. An accelerator serves until it is told to end.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from rich.console import Console

from sealtune.errors import ConfigError, Problem, StorageError
from sealtune.job.dsse import Envelope
from sealtune.job.event_log import End, Network, Start, parse
from sealtune.job.events import Done, Event, Final, Ready
from sealtune.job.local import Local
from sealtune.job.manifest import Manifest, job_id, verify_manifest
from sealtune.job.method import method_of
from sealtune.job.scratch import scratch_folder
from sealtune.job.storage import write_atomic
from sealtune.job.training_events import Worked
from sealtune.launch.domain import Domain, role_of
from sealtune.launch.flower import RELAY
from sealtune.launch.folder import MANIFEST, check_folder, check_idle
from sealtune.launch.network import glue_of
from sealtune.launch.parties import command, domain_of
from sealtune.launch.progress import Progress, Worker
from sealtune.launch.stage import LAUNCHER, Stage, staged, start_event
from sealtune.sockets import parse as parse_address

_GONE = 5.0  # seconds without the coordinator that are more than a moment's trouble
_LAST = 2.0  # seconds that the server's last words get on their way to the link
_FINISH = 15.0  # seconds that a party's own program gets to end when asked
_ELSEWHERE = "elsewhere"


class Part(StrEnum):
    """The half of a party that runs under an account of its own."""

    ENCLAVE = "enclave"
    NETWORK = "network"


@dataclass
class EventStream:
    """JSON lines of a party's events; the first one says that the party stands.

    Who listens may go: the events are kept in the party's folder all the same.

    Args:
        out: where to.
    """

    out: TextIO
    _waiting: list[str] | None = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Pass on one event, once the party stands."""
        line = json.dumps(event.fields(), separators=(",", ":"))
        if self._waiting is None:
            self._print(line)
        else:
            self._waiting.append(line)

    def open(self, ready: Event | None = None) -> None:
        """Let out ``ready``, and then what was said before."""
        waiting, self._waiting = self._waiting or [], None
        if ready is not None:
            self(ready)
        for line in waiting:
            self._print(line)

    def _print(self, line: str) -> None:
        try:
            print(line, file=self.out, flush=True)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.out.fileno())  # what is in the buffer goes there, too
            os.close(nowhere)


def run_party(
    local: Local,
    *,
    out: TextIO,
    console: Console,
    part: Part | None = None,
    command: Callable[[Local], Sequence[str]] = command,
) -> None:
    """Run a party until the job is done.

    Args:
        local: the party's own file.
        out: gets the events.
        console: where to show progress.
        part: only this half of it; the other one runs under another account.
        command: what starts the party's own program.

    Raises:
        Interrupted: it was asked to end; everything has been stopped.
        ConfigError: the party has no such part.
        ManifestError: the manifest or a key is refused.
        StorageError: its folder holds another job, or cannot be written.
        ProcessDiedError: a program died again and again.
        SealtuneError: what a program said that went wrong.
    """
    local = _of_part(local, part)
    envelope = Envelope.read(local.manifest)
    manifest, identity = verify_manifest(envelope), job_id(envelope.payload)
    stream = EventStream(out)
    if is_finished(local, identity):
        stream.open(End(role=LAUNCHER, outcome="ok"))
        where = _result(local, manifest)
        console.print(f"this job is done here already{where}", soft_wrap=True, markup=False)
        return
    check_folder(local.folder, envelope)
    check_idle(local.folder)
    write_atomic(local.folder / MANIFEST, envelope.encode())  # what the folder's events are of
    named = [] if part is Part.NETWORK else [manifest.programs.get(local.role, local.role)]
    if local.role == "coordinator":
        named = ["relay"]
    start = start_event(manifest, identity, named, party=local.name, resume=bool(local.resume))
    title = f"{manifest.settings.job.name}: {local.name}"
    with (
        scratch_folder() as temp,
        staged(local.folder, start, _progress(local, manifest), console, title, stream) as stage,
    ):
        try:
            party = _Party(local, manifest, stage, part)
            domains = party.domains(temp, command)
            party.work(domains, lambda: stream.open(Ready(role=local.role)))
            stage.progress.notices.append(f"done{_result(local, manifest)}")
        except BaseException:
            stream.open()  # a party that never stood says why
            raise


def is_finished(local: Local, identity: str) -> bool:
    """Whether the party's part in the job ``identity`` is done, by the events in its folder."""
    path = local.folder / "metrics.jsonl"
    try:
        with path.open("rb") as lines:
            events = [event for line in lines if (event := parse(line)) is not None]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    own, final = False, False
    for event in events:
        if isinstance(event, Start):
            own, final = event.job_id == identity, False
        final |= own and isinstance(event, Final)
        if own and final and isinstance(event, Done) and event.role == "server":
            return True
    return own and isinstance(last := events[-1], End) and last.outcome == "ok"


@dataclass
class _Party:
    """One party's programs, in their order."""

    local: Local
    manifest: Manifest
    stage: Stage
    part: Part | None
    _final: bool = False  # the server has evaluated the last adapter
    _released: bool = False  # the site has the result
    _lost: float = math.inf  # when the coordinator was lost
    _heard: float = 0.0  # when something happened last

    def __post_init__(self) -> None:
        self._own = role_of(self.local)
        self._record = self.stage.record
        self.stage.processes.on_event = self._hear

    def domains(self, temp: Path, command: Callable[[Local], Sequence[str]]) -> list[Domain]:
        """What the party starts."""
        found = []
        if self.local.role != "coordinator" and self.part is not Part.NETWORK:
            found.append(domain_of(self.local, command(self.local)))
        if self.part is not Part.ENCLAVE:
            glue = glue_of(self.local, self.manifest, temp)
            found += [glue] if glue else []
        return found

    def work(self, domains: Sequence[Domain], ready: Callable[[], None]) -> None:
        """Start everything, wait for the end of the work, let everything end."""
        processes = self.stage.processes
        processes.settled = True
        for domain in domains:
            processes.start(domain, again=True, over=self._is_over)
        roles = {one.role for one in domains if not one.is_glue or one.role == RELAY}
        processes.until(lambda: roles <= processes.ready)
        if self.part is Part.ENCLAVE or self.local.accelerates:
            self._share_socket()
        ready()
        processes.until(self._is_over)
        self._finish(domains)

    def _hear(self, event: Event) -> None:
        self._heard = time.monotonic()
        match event:
            case Final():
                self._final = True
            case Worked(stage="release"):
                self._released = True
            case Network(connected=bool(connected)):
                self._lost = math.inf if connected else self._heard
        self._record(event)

    def _is_over(self) -> bool:
        """Whether the party has done what it is for."""
        processes = self.stage.processes
        match self.local.role:
            case "coordinator":
                return RELAY in processes.done
            case "server" if self.part is not Part.NETWORK:
                return self._final and self._own in processes.done
            case "site" if self.part is not Part.NETWORK:
                return self._released and self._is_left()
        return bool(processes.done)

    def _is_left(self) -> bool:
        """Whether nobody will ask a site any more: it is not that a server needs some time."""
        now = time.monotonic()
        quiet = now - self._heard > self.manifest.settings.network.deadline
        return quiet or now - self._lost > _GONE

    def _share_socket(self) -> None:
        """Let the accounts of this group connect: of the network engine's program, or of a site."""
        address = parse_address(self.local.listen)
        if address.scheme == "unix":
            os.chmod(address.place, 0o660)

    def _finish(self, domains: Sequence[Domain]) -> None:
        """Let the glue pass on what is under way, then end the rest."""
        processes = self.stage.processes
        processes.finishing = True
        glue = [one.role for one in domains if one.is_glue]
        own = [one.role for one in domains if not one.is_glue]

        def gone(roles: Sequence[str]) -> Callable[[], bool]:
            return lambda: all(role in processes.ended for role in roles)

        processes.stop(own)
        processes.until(gone(own), _FINISH)
        if self.local.role == "server":
            processes.until(gone(glue), _LAST)
        processes.stop(glue)
        processes.until(gone(glue), _FINISH)
        if glue:
            self.stage.record_memory()


def _of_part(local: Local, part: Part | None) -> Local:
    """The file as the command uses it: the network's half has a folder of its own."""
    if part is not None and local.role not in ("server", "site"):
        words = f"the {local.role} is one program: there are no parts of it"
        raise ConfigError("--only", [Problem(part, words)])
    if local.role == "server" and not local.resume:
        local = local.model_copy(update={"resume": "auto"})
    if part is Part.NETWORK:
        local = local.model_copy(update={"folder": local.folder / "network"})
    return local


def _progress(local: Local, manifest: Manifest) -> Progress:
    """What a party can know of the whole: of others only what they report."""
    method = method_of(manifest.method)
    names = manifest.settings.sites.names
    progress = Progress.begin(
        (local.site,) if local.site else () if local.accelerates else names,
        manifest.settings.job.rounds,
        server_trains=method.server_trains and local.role == "server",
        server_name="server",
        accelerator="loading" if local.role == "accelerator" else "",
        pads="loading" if local.role == "pad-accelerator" else "",
    )
    if local.role != "site":
        progress.sites = {site: Worker(_ELSEWHERE) for site in progress.sites}
    if local.role != "server":
        progress.server = Worker(_ELSEWHERE)
    return progress


def _result(local: Local, manifest: Manifest) -> str:
    """Where the result lies, if it comes to this party."""
    if local.role == "server":
        return f"; `sealtune report {local.folder}` shows how it went"
    adapter = local.folder / "sites" / (local.site or "") / "adapter"
    if local.role == "site" and adapter.is_dir():
        return f": the adapter is in {adapter}"
    return ""
