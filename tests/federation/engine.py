"""The network engine's two programs, started as a run starts them."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from starlette.types import ASGIApp

from sealtune.frames import Frame
from sealtune.launch.credentials import Credentials, make_credentials
from sealtune.launch.flower import Flower, environment
from sealtune.launch.ports import free_port
from tests.federation.enclaves import Aggregator, client_enclave


def node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A site's node key."""
    key = load_ssh_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


class Engine:
    """A relay for sites ``a`` and ``b``, and their nodes. Close it.

    Attributes:
        folder: short enough for sockets.
        flower: the commands.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="st"))
        self.folder = Path(name)
        self.flower = Flower(self.folder, free_port(), self.credentials("keys"))

    @property
    def port(self) -> int:
        return self.flower.port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> str:
        return self.flower.credentials.certificate.read_text()

    def credentials(self, name: str) -> Credentials:
        return make_credentials(self.folder / name, ("a", "b"))

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program; it ends with the engine."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=environment(self.folder),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def relay(self, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start the relay and wait until it listens."""
        process = self.start(command or self.flower.relay(self.folder / "work.sock").command)
        self.until(lambda: self.listens(self.port) or process.poll() is not None)
        assert process.poll() is None, self.log()
        return process

    def node(self, site: str, answer: Callable[[Frame], Frame | None]) -> subprocess.Popen[bytes]:
        """Start a site's node, and an enclave behind it."""
        path = self.folder / f"{site}.sock"
        self._stack.enter_context(client_enclave(path, answer))
        return self.start(self.flower.node(site, str(path)).command)

    def work(self, orders: list[Frame]) -> list[Frame]:
        """Have an aggregator give out ``orders``; returns what it is told."""
        aggregator = Aggregator(self.folder / "server.sock", [*orders, Frame("done")])
        (self.folder / "work.sock").symlink_to(self.folder / "server.sock")
        aggregator.close(60)
        return aggregator.reports

    def serve(self, app: ASGIApp) -> None:
        """Serve another program in the relay's place, with its certificate."""
        made = self.flower.credentials
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                ssl_certfile=made.certificate,
                ssl_keyfile=made.key,
                lifespan="off",
                ws="none",
                log_config=None,
                timeout_graceful_shutdown=1,
            )
        )
        self._stack.enter_context(_served(server, self.port))

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that should happen soon."""
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def close(self) -> None:
        self._stack.close()

    def listens(self, port: int) -> bool:
        """Whether somebody does on this machine."""
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def _served(server: uvicorn.Server, port: int) -> Iterator[None]:
    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
