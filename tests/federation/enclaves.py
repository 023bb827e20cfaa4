"""Enclaves of a few lines, for relay and node to talk to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sealtune import frames
from sealtune.frames import Frame


def listen(path: Path) -> socket.socket:
    """A listening Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen()
    return sock


@contextlib.contextmanager
def client_enclave(path: Path, answer: Callable[[Frame], Frame | None]) -> Iterator[None]:
    """Answers every delivery by ``answer``; on None it hangs up without a word."""
    listener = listen(path)

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError):
                reply = answer(frames.receive(sock))
                if reply is not None:
                    frames.send(sock, reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


class Aggregator:
    """Gives out ``orders`` one after another and keeps what is reported.

    Attributes:
        reports: frames in the order of their arrival.
    """

    def __init__(self, path: Path, orders: list[Frame]) -> None:
        self.reports: list[Frame] = []
        self._orders = list(orders)
        self._listener = listen(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self, patience: float = 5) -> None:
        """Wait until the relay or node has hung up."""
        self._thread.join(patience)
        self._listener.close()

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        with sock:
            while True:
                try:
                    frame = frames.receive(sock)
                except EOFError:
                    return
                if frame.kind == "bye":
                    return
                if frame.kind == "next":
                    frames.send(sock, self._orders.pop(0))
                else:
                    self.reports.append(frame)
                    frames.send(sock, Frame("ok"))


def order(bodies: dict[str, bytes], deadline: float = 30.0) -> Frame:
    """A "send" frame."""
    sizes = {site: len(body) for site, body in bodies.items()}
    return Frame("send", {"to": sizes, "deadline": deadline}, b"".join(bodies.values()))
