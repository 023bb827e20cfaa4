"""The accelerator process's server: right answers over both transports, and no way to hurt it."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune import frames
from sealtune.accelerator.server import Server
from sealtune.errors import AcceleratorLostError, FrameError, StorageError
from sealtune.frames import Frame
from sealtune.offload import wire
from sealtune.offload.arena import Arena
from sealtune.offload.remote import RemoteAccelerator
from tests.offload.layers import GROUPS, HIDDEN, INNER, Setup, make_setup, product


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(params=["unix", "tcp", "unix and folder", "tcp and folder"])
def reach(
    request: pytest.FixtureRequest, setup: Setup, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], RemoteAccelerator]]:
    """A connection to the honest accelerator, each way."""
    near = request.param.startswith("unix")
    folder = tmp_path_factory.mktemp("s")
    shared = folder if "folder" in request.param else None
    address = f"unix:{folder}/a.sock" if near else "tcp:127.0.0.1:0"
    server = Server(setup.engine, address, untrusted_shm=shared)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if not near:
        address = f"tcp:127.0.0.1:{server.port}"
    yield lambda: RemoteAccelerator.connect(address, GROUPS, untrusted_shm=shared)
    server.close()


def has_ended(sock: socket.socket) -> bool:
    """Whether the other side closed, politely or by a reset because it left bytes unread."""
    try:
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(10) == b""
    except OSError:
        return True


def codes(rows: int, cols: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, (rows, cols)).to(torch.int32)


def test_products_are_those_of_the_engine(
    setup: Setup, reach: Callable[[], RemoteAccelerator]
) -> None:
    remote = reach()
    for rows in (1, 17, 300, 2):  # growing and shrinking shared memory
        for backward in (False, True):
            sent = codes(rows, HIDDEN + 16 if backward else INNER)
            got = product(remote, "q", sent, backward=backward)
            assert torch.equal(got, setup.engine.product("q", sent, backward=backward))
    remote.close()


def test_an_unplanned_request_is_refused_and_the_connection_lives(
    reach: Callable[[], RemoteAccelerator],
) -> None:
    remote = reach()
    with pytest.raises(AcceleratorLostError, match="no plain blocks"):
        remote.prefix(torch.ones((1, 4), dtype=torch.long))
    with pytest.raises(AcceleratorLostError, match="not in the slice plan"):
        product(remote, "elsewhere", codes(1, INNER), backward=False)
    assert product(remote, "q", codes(1, INNER), backward=False).shape == (1, HIDDEN + 16)
    remote.close()


def test_nobody_listening_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AcceleratorLostError, match="no accelerator answers"):
        RemoteAccelerator.connect(f"unix:{tmp_path}/none.sock", GROUPS)


def test_an_accelerator_that_dies_is_a_clear_error(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/a.sock")
    listener.listen()

    def die() -> None:
        sock, _ = listener.accept()
        sock.recv(64)
        sock.close()

    threading.Thread(target=die, daemon=True).start()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS)
    with pytest.raises(AcceleratorLostError, match="has gone"):
        product(remote, "q", codes(2, INNER), backward=False)
    remote.close()
    listener.close()


def test_an_accelerator_that_never_answers_is_given_up(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/a.sock")
    listener.listen()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS, timeout=0.1)
    with pytest.raises(AcceleratorLostError, match="has gone: timed out"):
        product(remote, "q", codes(2, INNER), backward=False)
    remote.close()
    listener.close()


def test_an_accelerator_that_starts_later_is_waited_for(setup: Setup, tmp_path: Path) -> None:
    made: list[Server] = []

    def start() -> None:
        made.append(Server(setup.engine, f"unix:{tmp_path}/a.sock"))
        made[0].serve_forever()

    later = threading.Timer(0.3, start)
    later.daemon = True
    later.start()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS, patience=60)
    assert product(remote, "q", codes(2, INNER), backward=False).shape == (2, HIDDEN + 16)
    remote.close()
    made[0].close()


@pytest.mark.parametrize("address", ["tcp:127.0.0.1:99999", "tcp:a..b:1", "unix:/nowhere/a.sock"])
def test_a_place_where_nobody_can_listen(setup: Setup, address: str) -> None:
    with pytest.raises(StorageError, match=f"cannot listen on {address}: "):
        Server(setup.engine, address)


def test_bytes_are_counted_and_the_socket_is_private(setup: Setup, tmp_path: Path) -> None:
    server = Server(setup.engine, f"unix:{tmp_path}/a.sock")
    assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o600
    assert server.port == 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS)
    product(remote, "q", codes(3, INNER), backward=False)
    assert (server.bytes_in, server.bytes_out) == (3 * INNER * 4, 3 * (HIDDEN + 16) * 4)
    product(remote, "o", codes(2, INNER), backward=True)
    assert server.bytes_in == 3 * INNER * 4 + 2 * INNER * 4
    remote.close()
    server.close()


def arenas() -> set[int]:
    """Numbers of the pieces of shared memory that this process holds."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if "sealtune-arena" in os.readlink(entry):
                found.add(entry.stat().st_ino)
    return found


def test_no_shared_memory_stays_open(setup: Setup, tmp_path: Path) -> None:
    server = Server(setup.engine, f"unix:{tmp_path}/a.sock")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    before = arenas()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS)
    for rows in (1, 100, 1000):
        product(remote, "q", codes(rows, INNER), backward=False)
    assert len(arenas() - before) == 1  # the last one
    remote.close()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/a.sock")
        arena = Arena.create(4096)
        frames.send(sock, Frame("arena", {"bytes": 8192}))
        wire.send_descriptor(sock, arena.descriptor)
        assert "announced size" in frames.receive(sock).meta["message"]
        arena.close()
        del arena  # and with it the mapping
        for _ in range(3000):  # the server's thread may be closing it still
            if not arenas() - before:
                break
            threading.Event().wait(0.01)
        assert not arenas() - before
    server.close()


@pytest.mark.parametrize(
    ("batch", "length", "size"),
    [(0, 3, 0), (3, 0, 0), (-1, -2, 16), (-2, 1, 16), (1, 2, 8), (1, 2, 15), (1, 2, 24), (1, 2, 0)],
)
def test_token_ids_of_another_shape_are_refused(
    setup: Setup, batch: int, length: int, size: int
) -> None:
    server = Server(setup.engine, "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        frames.send(sock, Frame("prefix", {"batch": batch, "length": length}, bytes(size)))
        answer = frames.receive(sock)
        message = "FrameError: token ids do not have the announced shape"
        assert (answer.kind, answer.meta) == ("error", {"message": message})
    server.close()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["product", "prefix", "arena?", ""]),
    meta=st.dictionaries(
        st.sampled_from(["group", "rows", "backward", "batch", "length", "bytes"]),
        st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=5), st.none(), st.booleans()),
    ),
    body=st.binary(max_size=200),
)
def test_hostile_requests_get_an_error_frame(
    setup: Setup, kind: str, meta: dict[str, object], body: bytes
) -> None:
    server = Server(setup.engine, "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        frames.send(sock, Frame(kind, meta, body))
        assert frames.receive(sock).kind == "error"
    server.close()


def test_garbage_ends_only_its_own_connection(setup: Setup) -> None:
    server = Server(setup.engine, "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    good = RemoteAccelerator.connect(f"tcp:127.0.0.1:{server.port}", GROUPS)
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n____",
        struct.pack("<4sIQI", b"STF1", 4, 2**63, 0),
        struct.pack("<4sIQI", b"STF1", 4, 2**31 + 1, 0),
    ):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(garbage)
            assert has_ended(sock)
    assert product(good, "o", codes(2, HIDDEN), backward=False).shape == (2, INNER)
    good.close()
    server.close()


def test_shared_memory_of_a_false_size_is_refused() -> None:
    arena = Arena.create(4096)
    with pytest.raises(FrameError, match="announced size"):
        Arena.attach(arena.descriptor, 8192)
    with pytest.raises(FrameError, match="do not fit"):
        arena.codes(2**20, 2**20, 1)
    arena.close()


def test_shared_memory_cannot_be_cut_short_by_the_other_side() -> None:
    """Touching truncated memory would end the enclave with SIGBUS and without a word."""
    arena = Arena.create(4096)
    with pytest.raises(PermissionError):
        os.ftruncate(arena.descriptor, 0)
    arena.close()
    unsealed = os.memfd_create("test")
    os.ftruncate(unsealed, 4096)
    with pytest.raises(FrameError, match="cut short"):
        Arena.attach(unsealed, 4096)
    os.close(unsealed)


def ask(server: Server, *requests: Frame) -> Frame:
    """The answer to the last of one connection's requests."""
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        for request in requests:
            frames.send(sock, request)
            answer = frames.receive(sock)
        return answer


@pytest.fixture
def shared(setup: Setup, tmp_path: Path) -> Iterator[Server]:
    """A server with a folder for shared memory."""
    server = Server(setup.engine, "tcp:127.0.0.1:0", untrusted_shm=tmp_path)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.close()


@pytest.mark.parametrize("name", ["../victim", "/etc/passwd", "victim", "", 7, ["x"]])
def test_an_enclave_names_no_other_file(shared: Server, tmp_path: Path, name: object) -> None:
    (tmp_path / "victim").write_bytes(bytes(4096))
    answer = ask(shared, Frame("arena", {"bytes": 4096, "name": name}))
    assert answer.kind == "error"
    assert (tmp_path / "victim").read_bytes() == bytes(4096)


def test_a_shared_folder_is_there_before_anybody_calls(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no folder .*none"):
        Server(setup.engine, "tcp:127.0.0.1:0", untrusted_shm=tmp_path / "none")


def test_without_a_folder_no_file_is_opened(setup: Setup) -> None:
    server = Server(setup.engine, "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    answer = ask(server, Frame("arena", {"bytes": 4096, "name": "sealtune-" + "0" * 32}))
    assert "untrusted_shm is not in the accelerator's local file" in answer.meta["message"]
    server.close()


def test_an_enclave_that_cuts_its_file_short_hurts_only_itself(
    shared: Server, tmp_path: Path
) -> None:
    arena = Arena.create_in(tmp_path, 4 * 4096)
    with socket.create_connection(("127.0.0.1", shared.port)) as sock:
        frames.send(sock, Frame("arena", {"bytes": arena.size, "name": arena.name}))
        assert frames.receive(sock).kind == "ok"
        os.truncate(arena.descriptor, 0)
        frames.send(sock, Frame("product", {"group": "o", "backward": False, "rows": 3}))
        assert "cut short" in frames.receive(sock).meta["message"]
    arena.close()
    near = RemoteAccelerator.connect(f"tcp:127.0.0.1:{shared.port}", GROUPS, untrusted_shm=tmp_path)
    assert product(near, "o", codes(2, HIDDEN), backward=False).shape == (2, INNER)
    near.close()


@pytest.mark.parametrize(
    ("rows", "size"),
    [(2, 4), (2, 2 * INNER * 4 + 4), (-1, 0), (2**40, 0), (2**29, 16), (10**30, 0), (1e999, 4)],
)
def test_a_lying_number_of_rows_gets_an_error_and_the_connection_lives(
    shared: Server, rows: object, size: int
) -> None:
    lie = Frame("product", {"group": "q", "backward": False, "rows": rows}, bytes(size))
    honest = Frame("product", {"group": "q", "backward": False, "rows": 1}, bytes(INNER * 4))
    assert ask(shared, lie).kind == "error"
    assert ask(shared, lie, honest).kind == "product"


def test_rows_beyond_shared_memory_are_not_touched(shared: Server, tmp_path: Path) -> None:
    arena = Arena.create_in(tmp_path, 4096)
    attach = Frame("arena", {"bytes": 4096, "name": arena.name})
    meta = {"group": "q", "backward": False, "rows": 30}
    assert "do not fit" in ask(shared, attach, Frame("product", meta)).meta["message"]
    with_body = Frame("product", meta | {"rows": 1}, bytes(INNER * 4))
    assert "does not hold" in ask(shared, attach, with_body).meta["message"]
    arena.close()


def test_no_rows_are_a_product_too(reach: Callable[[], RemoteAccelerator]) -> None:
    remote = reach()
    assert product(remote, "q", codes(0, INNER), backward=False).shape == (0, HIDDEN + 16)
    remote.close()


def test_calls_come_one_by_one(setup: Setup, reach: Callable[[], RemoteAccelerator]) -> None:
    """Each misuse is refused: buffers are shared by all calls."""
    remote = reach()
    first = remote.call("q", 2, backward=False)
    with pytest.raises(AcceleratorLostError, match="not asked for"):
        first.result()
    second = remote.call("q", 3, backward=False)
    with pytest.raises(AcceleratorLostError, match="after the next one began"):
        first.submit()
    sent = codes(3, INNER)
    second.codes.copy_(sent)
    second.submit()
    with pytest.raises(AcceleratorLostError, match="submitted twice"):
        second.submit()
    with pytest.raises(AcceleratorLostError, match="was not waited for"):
        remote.call("q", 1, backward=False)
    assert torch.equal(second.result(), setup.engine.product("q", sent, backward=False))
    with pytest.raises(AcceleratorLostError, match="not asked for"):
        second.result()
    remote.close()


def test_buffers_are_kept(reach: Callable[[], RemoteAccelerator]) -> None:
    remote = reach()
    places = set()
    for rows in (9, 3, 9, 1):
        for group, backward in (("q", False), ("o", True)):
            call = remote.call(group, rows, backward=backward)
            places.add(call.codes.data_ptr())
            call.codes.zero_()
            call.submit()
            call.result()
    assert len(places) == 1
    remote.close()


def test_an_unforeseen_fault_is_told_and_not_hidden(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: object, **_kwargs: object) -> torch.Tensor:
        raise AssertionError("a fault of its own")

    monkeypatch.setattr(setup.engine, "multiply", broken)
    server = Server(setup.engine, f"unix:{tmp_path}/a.sock")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS)
    spec = GROUPS[0]
    codes = torch.zeros(4, spec.in_features, dtype=torch.int32)
    with pytest.raises(AcceleratorLostError, match="AssertionError: a fault of its own"):
        product(remote, spec.name, codes, backward=False)
    remote.close()
    server.close()
    assert "a fault of its own" in capfd.readouterr().err
