"""The handshake over sockets, with a hostile process in between (`tests.channel.middle`)."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealtune import frames
from sealtune.attest.errors import WrongReportDataError
from sealtune.channel.handshake import Established
from sealtune.errors import SealtuneError
from tests.channel import parties

REPOSITORY = Path(__file__).parents[2]


def raw(frame: frames.Frame) -> bytes:
    return frames.encode(frame)


class Server(threading.Thread):
    """Answers handshakes one after another and keeps each outcome."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.outcomes: list[Established | Exception] = []
        self.answered = threading.Semaphore(0)

    def run(self) -> None:
        with contextlib.suppress(OSError):  # closed by the test
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    try:
                        self.outcomes.append(self.handshake(connection))
                    except (SealtuneError, EOFError) as error:
                        self.outcomes.append(error)
                self.answered.release()

    def handshake(self, connection: socket.socket) -> Established:
        server = parties.server()
        frames.send(connection, frames.decode(server.challenge()))
        reply = server.on_hello(raw(frames.receive(connection)))
        frames.send(connection, frames.decode(reply))
        return server.on_client_key(raw(frames.receive(connection)))

    def outcome(self) -> Established | Exception:
        """Of the next handshake."""
        assert self.answered.acquire(timeout=60)
        return self.outcomes[-1]


def connect(path: str, job: bytes = parties.JOB) -> Established:
    """A client's handshake through the socket at ``path``."""
    client = parties.client(job)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(path)
        hello = client.on_challenge(raw(frames.receive(connection)))
        frames.send(connection, frames.decode(hello))
        last, established = client.on_server_hello(raw(frames.receive(connection)))
        frames.send(connection, frames.decode(last))
        return established


@contextlib.contextmanager
def middle(mode: str) -> Iterator[tuple[str, Server]]:
    """The path that clients connect to, and the server behind the hostile process."""
    with tempfile.TemporaryDirectory() as folder:
        own, target = (str(Path(folder) / name) for name in ("middle", "server"))
        server = Server(target)
        server.start()
        command = [sys.executable, "-m", "tests.channel.middle", mode, own, target]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=os.environ.copy()
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield own, server
        finally:
            process.kill()
            process.communicate()
            server.listener.shutdown(socket.SHUT_RDWR)
            server.join(timeout=60)
            server.listener.close()


def test_a_process_that_only_relays_gains_nothing_and_breaks_nothing() -> None:
    with middle("relay") as (path, server):
        at_client = connect(path)
        at_server = server.outcome()
        assert isinstance(at_server, Established)
        assert at_client.incoming.open(at_server.outgoing.seal(b"x", 1), 1) == b"x"


def test_swapped_keys() -> None:
    with middle("swap-key") as (path, server):
        with pytest.raises((EOFError, frames.FrameError)):
            connect(path)
        assert isinstance(server.outcome(), WrongReportDataError)


def test_replayed_client_evidence() -> None:
    with middle("replay-client-hello") as (path, server):
        connect(path)
        assert isinstance(server.outcome(), Established)
        with pytest.raises((EOFError, frames.FrameError)):
            connect(path)
        assert isinstance(server.outcome(), WrongReportDataError)


def test_replayed_server_evidence() -> None:
    with middle("replay-server-hello") as (path, server):
        connect(path)
        server.outcome()
        with pytest.raises(WrongReportDataError):
            connect(path)
        assert not isinstance(server.outcome(), Established)


def test_evidence_of_another_job() -> None:
    with middle("other-job") as (path, server):
        with pytest.raises((EOFError, frames.FrameError)):
            connect(path, parties.OTHER_JOB)
        assert isinstance(server.outcome(), WrongReportDataError)
