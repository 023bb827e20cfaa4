"""Products through a device's queues, in whatever order these leave open, against integers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune import frames
from sealtune.accelerator.engine import Engine
from sealtune.accelerator.exchange import Exchange, Shared
from sealtune.accelerator.lanes import Queued
from sealtune.accelerator.server import Server
from sealtune.frames import Frame
from sealtune.offload.remote import RemoteAccelerator
from tests.accelerator.stand_in import StandIn
from tests.offload.integers import multiply
from tests.offload.layers import GROUPS, HIDDEN, INNER, Setup, make_setup, product


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


def codes(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, (rows, cols), generator=generator).to(torch.int32)


class Piecewise(Exchange):
    """As a socket: rows come and go in order, in memory of their own."""

    def __init__(self, given: torch.Tensor) -> None:
        self.given = given
        self.taken: list[torch.Tensor] = []
        self.filled = 0

    def fill(self, rows: torch.Tensor) -> None:
        assert not self.taken, "the other side sends all before it reads"
        rows.copy_(self.given[self.filled : self.filled + len(rows)])
        self.filled += len(rows)

    def drain(self, rows: torch.Tensor) -> None:
        self.taken.append(rows.clone())


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 20),
    inner=st.integers(1, 6),
    outer=st.integers(1, 6),
    chunk=st.sampled_from([1, 24, 100, 10**6]),
    way=st.sampled_from(["pinned", "unpinned", "piecewise"]),
    seed=st.integers(0, 2**16),
)
def test_products_are_exact_in_any_order_of_events(
    rows: int, inner: int, outer: int, chunk: int, way: str, seed: int
) -> None:
    device = StandIn(seed)
    lane = Queued(device, chunk=chunk)
    weight = codes(outer, inner, seed).to(torch.int8).t()
    for again in range(3):  # with the buffers of the last call
        given = codes(rows, inner, seed + again)
        found = torch.full((rows, outer), -7, dtype=torch.int32)
        if way == "piecewise":
            exchange = Piecewise(given)
            lane.multiply(weight, rows, exchange)
            found = torch.cat([found[:0], *exchange.taken])
        else:
            lane.multiply(weight, rows, Shared(given, found, pinned=way == "pinned"))
        assert found.tolist() == multiply(given, weight)
        assert not device.pending
    assert bool(device.owned) == (way != "pinned" and rows > 0)


@pytest.mark.parametrize("at", [0, 1, 4, 7])
def test_nothing_is_under_way_after_a_fault(at: int) -> None:
    """Memory that a queue still writes to is not let go of."""

    class Broken(Piecewise):
        def fill(self, rows: torch.Tensor) -> None:
            if self.filled == at:
                raise OSError("the enclave has gone")
            super().fill(rows)

    device = StandIn()
    lane = Queued(device, chunk=1)
    with pytest.raises(OSError, match="has gone"):
        lane.multiply(codes(3, 2).to(torch.int8), 8, Broken(codes(8, 3)))
    assert not device.pending


def serve(setup: Setup, device: StandIn, address: str) -> Server:
    groups = [group.model_dump() for group in GROUPS]
    engine = Engine(Path(setup.plan.backbone.path), groups, device=device)
    server = Server(engine, address)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def until(met: Callable[[], bool]) -> bool:
    for _ in range(3000):
        if met():
            return True
        threading.Event().wait(0.01)
    return False


@pytest.mark.parametrize("can_pin", [True, False])
@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_a_device_serves_enclaves(
    setup: Setup, tmp_path: Path, scheme: str, can_pin: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealtune.accelerator.lanes._CHUNK", 64)
    device = StandIn(can_pin=can_pin)
    address = f"unix:{tmp_path}/a.sock" if scheme == "unix" else "tcp:127.0.0.1:0"
    server = serve(setup, device, address)
    if scheme == "tcp":
        address = f"tcp:127.0.0.1:{server.port}"
    remote = RemoteAccelerator.connect(address, GROUPS)
    for rows in (1, 17, 300, 2):
        for backward in (False, True):
            sent = codes(rows, HIDDEN + 16 if backward else INNER)
            found = product(remote, "q", sent, backward=backward)
            assert torch.equal(found, setup.engine.product("q", sent, backward=backward))
            assert len(device.pins) == (can_pin and scheme == "unix")
    remote.close()
    assert until(lambda: not device.pins)
    assert until(lambda: server.engine.calls == 8)
    server.close()


def machines(setup: Setup) -> list[Engine]:
    groups = [group.model_dump() for group in GROUPS]
    path = Path(setup.plan.backbone.path)
    return [Engine(path, groups, device=StandIn()), Engine(path, groups)]


@pytest.mark.parametrize("machine", [0, 1], ids=["device", "processor"])
def test_no_site_waits_for_anothers_transfer(setup: Setup, machine: int) -> None:
    """One stops in the middle of its codes, for good; the other is served."""
    server = Server(machines(setup)[machine], "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        meta = {"group": "q", "backward": False, "rows": 100}
        head = frames.encode_head(Frame("product", meta), 100 * INNER * 4)
        slow.sendall(head + bytes(99 * INNER * 4))
        remote = RemoteAccelerator.connect(f"tcp:127.0.0.1:{server.port}", GROUPS, timeout=60)
        sent = codes(50, INNER)
        found = product(remote, "q", sent, backward=False)
        assert torch.equal(found, setup.engine.product("q", sent, backward=False))
        remote.close()
        slow.sendall(bytes(INNER * 4))
        answer = frames.receive(slow)
        assert (answer.kind, len(answer.body)) == ("product", 100 * (HIDDEN + 16) * 4)
    server.close()


@pytest.mark.parametrize("machine", [0, 1], ids=["device", "processor"])
def test_sites_at_once_get_their_own_products(setup: Setup, machine: int, tmp_path: Path) -> None:
    server = Server(machines(setup)[machine], f"unix:{tmp_path}/a.sock")
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def work(seed: int) -> bool:
        remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS)
        right = []
        for turn in range(20):
            sent = codes(1 + turn, INNER, seed * 100 + turn)
            found = product(remote, "q", sent, backward=False)
            right.append(torch.equal(found, setup.engine.product("q", sent, backward=False)))
        remote.close()
        return all(right)

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(work, range(3)))
    server.close()
