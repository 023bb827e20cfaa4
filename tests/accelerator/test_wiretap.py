"""A listener on the wire between a training enclave and the accelerator, over TCP."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from sealtune import frames
from sealtune.accelerator.server import Server
from sealtune.frames import Frame
from sealtune.offload.remote import RemoteAccelerator
from sealtune.offload.session import OffloadSession
from tests.offload.layers import GROUPS, INNER, Setup, Toy, make_setup

TOKENS = 256


class Proxy:
    """Passes bytes both ways and keeps what goes towards the accelerator, and what comes back."""

    def __init__(self, port: int) -> None:
        self.seen = bytearray()
        self.answered = bytearray()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        back = threading.Thread(
            target=self._copy, args=(server, client, self.answered), daemon=True
        )
        back.start()
        self._copy(client, server, self.seen)
        back.join()
        self._ended.set()
        for sock in (client, server, self._listener):
            sock.close()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, record: bytearray) -> None:
        while data := source.recv(1 << 16):
            record += data
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    def frames(self, *, back: bool = False) -> list[Frame]:
        """The recorded stream of a connection that the enclave has closed, parsed; ``back``: that
        of the answers, as far as it is whole.
        """
        assert self._ended.wait(60)
        found, rest = [], bytes(self.answered if back else self.seen)
        while len(rest) >= frames.HEADER.size:
            meta, body = frames.parse_header(rest[: frames.HEADER.size])
            size = frames.HEADER.size + meta + body
            if back and size > len(rest):
                break
            found.append(frames.decode(rest[:size]))
            rest = rest[size:]
        return found


def train_one_step(setup: Setup) -> list[Frame]:
    """What crossed the wire in a step over many copies of one canary row."""
    server = Server(setup.engine, "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = Proxy(server.port)
    remote = RemoteAccelerator.connect(f"tcp:127.0.0.1:{proxy.port}", GROUPS)
    model = Toy().requires_grad_(False)
    with OffloadSession(remote, setup.plan, integrity_bits=40, owner="test") as session:
        session.install(model)
        torch.manual_seed(0)
        canary = torch.randn(INNER).expand(1, TOKENS, INNER).clone().requires_grad_(True)
        model(canary).square().sum().backward()
    server.close()
    return [f for f in proxy.frames() if f.kind == "product"]


def worst_p_value(crossed: list[Frame]) -> float:
    return min(
        float(chisquare(torch.bincount(raw[i::4].long(), minlength=256).numpy()).pvalue)
        for raw in (torch.frombuffer(bytearray(f.body), dtype=torch.uint8) for f in crossed)
        for i in range(4)
    )


def repeated_rows(crossed: list[Frame]) -> int:
    """How often a row of the first product comes again: the canary is sent many times."""
    body = bytes(crossed[0].body)
    size = len(body) // TOKENS
    return TOKENS - len({body[i : i + size] for i in range(0, len(body), size)})


@pytest.mark.parametrize("protect", ["adapter+data", "insecure-none"])
def test_only_masked_traffic_is_uniform(tmp_path: Path, protect: str) -> None:
    crossed = train_one_step(make_setup(tmp_path, protect))
    assert [f.meta["backward"] for f in crossed] == [False, False, True, True]
    if protect == "insecure-none":
        assert repeated_rows(crossed) == TOKENS - 1  # the same test finds the canary
        assert worst_p_value(crossed) < 1e-12
    else:
        assert repeated_rows(crossed) == 0
        assert worst_p_value(crossed) > 1e-6
