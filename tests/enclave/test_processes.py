"""The enclaves and the accelerator as real processes; a loop stands in for the network engine."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import FederationError
from sealtune.federation.enclave_link import Outcome, ServerEnclave, connect, deliver
from sealtune.job.local import Local
from sealtune.job.local_file import anchored
from sealtune.launch import environment
from sealtune.launch.parties import command
from tests.enclave.flow import make_job, sign_job


@dataclass
class Process:
    """A child whose events are collected as they come."""

    popen: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    ready: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        for line in self.popen.stdout or ():
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == "ready":
                self.ready.set()
        self.ready.set()  # it never will be: do not wait

    def end(self) -> int:
        return self.popen.wait(60)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


class Processes:
    """The processes of a job, each started as a run starts it.

    Args:
        parties: site, or role of another party -> its own file; the sockets are put into a folder.
    """

    server: Process
    clients: dict[str, Process]

    def __init__(self, parties: dict[str, Local], sockets: Path) -> None:
        self.parties = {name: anchored(party, sockets) for name, party in parties.items()}
        for name, party in parties.items():
            if not party.site:
                setattr(self, name, self.start(name))
        self.clients = {name: self.start(name) for name, party in parties.items() if party.site}

    def start(self, name: str) -> Process:
        """Start one."""
        popen = subprocess.Popen(
            command(self.parties[name]),
            stdout=subprocess.PIPE,
            text=True,
            env=environment.variables({"OMP_NUM_THREADS": "1"}),
        )
        process = Process(popen)
        threading.Thread(target=process.read, daemon=True).start()
        return process

    def socket(self, name: str) -> Path:
        return Path(self.parties[name].listen)

    @property
    def all(self) -> list[Process]:
        return [self.server, *self.clients.values()]

    def wait_ready(self) -> None:
        for process in self.all:
            assert process.ready.wait(120)
            assert process.of("ready"), process.events

    def exchange(self, server: ServerEnclave) -> bool:
        order = server.next()
        if order is None:
            return False
        for site, message in order.to.items():
            try:
                body, reason = deliver(str(self.socket(site)), message), ""
            except FederationError as error:
                body, reason = None, error.message
            server.report(Outcome(site, body, reason, 1, 0.0, len(message)))
        return True

    def close(self) -> None:
        for process in self.all:
            self.end(process)

    def end(self, process: Process) -> None:
        process.popen.kill()
        process.popen.wait()
        if process.popen.stdout:
            process.popen.stdout.close()


class Machine(Processes):
    """All processes of a federated job."""

    accelerator: Process

    @property
    def all(self) -> list[Process]:
        return [self.accelerator, *super().all]


@pytest.fixture
def machine(llama: Path, tmp_path: Path) -> Iterator[Machine]:
    parties = sign_job(make_job(tmp_path, llama), tmp_path / "run")
    with tempfile.TemporaryDirectory(prefix="st-") as sockets:
        found = Machine(parties, Path(sockets))
        try:
            yield found
        finally:
            found.close()


def send_nonsense(machine: Machine) -> None:
    """What the network says without a key must change nothing."""
    for path in (machine.socket("server"), machine.socket("north")):
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n" * 40, b"STF1" + b"\xff" * 40):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.connect(str(path))
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    sock.recv(1)
    for data in (b"", b"x" * 500, b"STSS" + bytes(400)):
        with pytest.raises(FederationError, match="the client enclave failed"):
            deliver(str(machine.socket("north")), data)
    with (
        ServerEnclave(connect(str(machine.socket("server")))) as server,
        pytest.raises(FederationError, match="nothing was asked"),
    ):
        server.report(Outcome("north", b"", "", 1, 0.0, 0))


@pytest.mark.slow
def test_a_whole_run(machine: Machine, tmp_path: Path) -> None:
    machine.wait_ready()
    send_nonsense(machine)
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        while machine.exchange(server):
            pass
    assert machine.server.end() == 0
    for client in machine.clients.values():
        client.popen.send_signal(signal.SIGTERM)
        assert client.end() == 0
    machine.accelerator.popen.send_signal(signal.SIGTERM)
    assert machine.accelerator.end() == 0
    assert [e["round"] for e in machine.server.of("round")] == [0, 1, 2]
    for site, client in machine.clients.items():
        assert client.of("memory")[0]["peak_mib"] > 50
        assert client.events[-1] == {"event": "done"}
        assert not client.of("error")
        assert client.of("attested")[0]["by"] == site
        assert (tmp_path / "run" / "sites" / site / "adapter" / "sealtune.json").is_file()
    assert machine.accelerator.of("offload")[-1]["calls"] > 0
    entry = machine.server.of("final")[0]["sites"]["north"]
    assert entry["seconds"]["accelerator"] > 0
    assert entry["seconds"]["passes"] > 0
    trained = machine.server.of("round")[1]["sites"]["north"]  # nothing is made ahead for it
    assert trained["seconds"]["pads"] > 0


@pytest.mark.slow
def test_a_killed_accelerator_ends_the_site_with_its_reason(machine: Machine) -> None:
    machine.wait_ready()
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        for _ in range(3):  # handshake and first evaluation
            machine.exchange(server)
        machine.accelerator.popen.kill()
        machine.accelerator.popen.wait()
        machine.exchange(server)
        client = machine.clients["north"]
        assert client.end() == 5
        assert client.of("error")[0]["error"] == "AcceleratorLostError"
        with pytest.raises(FederationError, match="0 of 2 sites finished round 1"):
            server.next()
    assert machine.server.end() == 8
    assert machine.server.of("round")[-1]["sites"]["north"]["outcome"] == "failed"


def relay(machine: Machine) -> None:
    """A server's process, from its start to its end."""
    machine.server = machine.start("server")
    assert machine.server.ready.wait(120)
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        while machine.exchange(server):
            pass


@pytest.mark.slow
def test_sites_go_on_with_a_server_that_was_killed_and_not_with_an_older_one(
    machine: Machine, tmp_path: Path
) -> None:
    """The sites' processes live through it all."""
    machine.wait_ready()
    sealed = tmp_path / "run" / "state" / "checkpoint.sealed"
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        for _ in range(4):  # handshake, first evaluation, round 1
            machine.exchange(server)
        old = sealed.read_bytes()
        machine.exchange(server)  # round 2, whose answers are lost
    machine.end(machine.server)
    going_on = machine.parties["server"].model_copy(update={"resume": True})
    machine.parties["server"] = going_on
    relay(machine)
    assert machine.server.end() == 0
    assert [e["round"] for e in machine.server.of("final")] == [2]
    for client in machine.clients.values():
        assert len(client.of("attested")) == 2  # the second server proved itself, too
        assert [e["round"] for e in client.of("phase") if e["phase"] == "train"] == [1, 2, 2]
        assert not client.of("refused")
    sealed.write_bytes(old)  # Attack: that of round 0
    machine.end(machine.server)
    with pytest.raises(FederationError, match="has seen what came after round 2"):
        relay(machine)
    assert machine.server.end() == 6
    assert machine.server.of("error")[0]["error"] == "RollbackError"
    client = machine.clients["north"]
    assert client.popen.poll() is None
    assert "is at round 0, and this site has seen" in client.of("refused")[0]["message"]
    assert [e["round"] for e in client.of("phase") if e["phase"] == "train"] == [1, 2, 2]
