"""The transport over an in-memory Flower: every site has exactly one outcome, whatever happens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import pytest
from flwr.app import Error, Message

from sealtune.federation import flower_transport, payload
from sealtune.federation.enclave_link import Outcome
from sealtune.federation.flower_transport import ATTEMPTS, FlowerTransport
from sealtune.federation.node import answer as node_answer
from sealtune.federation.spool import Spool
from sealtune.frames import Frame
from tests.federation.enclaves import client_enclave
from tests.federation.local_grid import LocalGrid, LocalNode


def backwards(frame: Frame) -> Frame:
    return Frame("reply", {}, bytes(frame.body)[::-1])


class World:
    """Sites with enclaves behind an in-memory Flower."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.nodes: dict[str, LocalNode] = {}
        self.log: list[str] = []
        self.grid = LocalGrid([])

    def add(self, site: str, answer: Callable[[Frame], Frame | None] = backwards) -> LocalNode:
        number = len(self.nodes) + 2
        socket, folder = self._folder / f"{number}.sock", self._folder / str(number)
        folder.mkdir()
        spool = Spool(folder)
        self._stack.enter_context(client_enclave(socket, answer))
        node = LocalNode(site, number, lambda message: node_answer(message, str(socket), spool))
        self.grid.sites[number] = self.nodes[site] = node
        return node

    def exchange(self, outgoing: dict[str, bytes], deadline: float = 20.0) -> dict[str, Outcome]:
        outcomes: list[Outcome] = []
        transport = FlowerTransport(self.grid, poll=0.01, node_poll=0.02, log=self.log.append)
        transport.exchange(outgoing, deadline, outcomes.append)
        assert sorted(o.site for o in outcomes) == sorted(outgoing), "each site exactly once"
        return {outcome.site: outcome for outcome in outcomes}

    def close(self) -> None:
        self.grid.close()
        self._stack.close()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(flower_transport, "BACKOFF", 0.01)
    world = World(tmp_path)
    yield world
    world.close()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1050])
def test_bytes_arrive_identical(world: World, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(payload, "PIECE", 100)
    for site in "abc":
        world.add(site)
    outgoing = {site: bytes((i * 7 + ord(site)) % 256 for i in range(size)) for site in "abc"}
    outcomes = world.exchange(outgoing)
    for site, body in outgoing.items():
        assert outcomes[site].body == body[::-1]
        assert (outcomes[site].bytes_down, outcomes[site].bytes_up) == (size, size)
        assert (outcomes[site].attempts, outcomes[site].reason) == (1, "")


def test_a_long_answer_to_a_short_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "PIECE", 100)
    world.add("a", lambda frame: Frame("reply", {}, bytes(frame.body) * 300))
    assert world.exchange({"a": b"xyz"})["a"].body == b"xyz" * 300


def test_two_exchanges_in_a_row(world: World) -> None:
    world.add("a")
    assert world.exchange({"a": b"one"})["a"].body == b"eno"
    assert world.exchange({"a": b"two"})["a"].body == b"owt"


def test_a_site_that_never_joined(world: World) -> None:
    world.add("a")
    outcomes = world.exchange({"a": b"x", "ghost": b"x"}, deadline=0.3)
    assert outcomes["a"].body == b"x"
    assert outcomes["ghost"].body is None
    reason = "no SuperNode of this name has joined before its deadline of 0.3 s"
    assert outcomes["ghost"].reason == reason


def test_a_site_that_is_too_slow(world: World) -> None:
    release = threading.Event()

    def wait(frame: Frame) -> Frame:
        release.wait(10)
        return backwards(frame)

    world.add("a", wait)
    world.add("b")
    outcomes = world.exchange({"a": b"x", "b": b"x"}, deadline=0.3)
    release.set()
    assert outcomes["a"].body is None
    assert outcomes["a"].reason == "no answer before its deadline of 0.3 s"
    assert outcomes["b"].body == b"x"


def test_an_enclave_that_fails_is_absent_with_its_reason(world: World) -> None:
    world.add("a", lambda frame: Frame("failed", {"message": "no pads left"}))
    outcome = world.exchange({"a": b"x"})["a"]
    assert outcome.body is None
    assert outcome.reason == "the client enclave failed: no pads left"
    assert outcome.attempts == 1


@pytest.mark.parametrize("code", [3, 4, 5])
def test_a_lost_message_is_sent_anew(world: World, code: int) -> None:
    lost: list[Message] = []

    def lose_first(message: Message) -> Error | None:
        if lost:
            return None
        lost.append(message)
        return Error(code=code, reason="lost")

    world.add("a")
    world.grid.spy = lose_first
    outcome = world.exchange({"a": b"ab"})["a"]
    assert (outcome.body, outcome.attempts) == (b"ba", 2)
    assert len(world.log) == 1
    assert "sending anew" in world.log[0]


def test_attempts_are_bounded(world: World) -> None:
    world.add("a")
    world.grid.spy = lambda message: Error(code=5, reason="")
    outcome = world.exchange({"a": b"ab"})["a"]
    assert (outcome.body, outcome.attempts) == (None, ATTEMPTS)
    assert outcome.reason == f"its SuperNode went offline ({ATTEMPTS} attempts)"


@pytest.mark.parametrize("code", [1, 2, 7])
def test_an_app_that_raises_is_absent_at_once(world: World, code: int) -> None:
    world.add("a")
    world.grid.spy = lambda message: Error(code=code, reason="ValueError")
    outcome = world.exchange({"a": b"ab"})["a"]
    assert (outcome.body, outcome.attempts) == (None, 1)
    assert f"code {code}: ValueError" in outcome.reason


def test_a_node_that_was_lost_and_came_back(world: World) -> None:
    """The message went down with the node; nobody will ever answer it."""
    seen = []

    def answer(frame: Frame) -> Frame:
        seen.append(frame)
        if len(seen) == 1:
            node.lose()
            node.rejoin()
        return backwards(frame)

    node = world.add("a", answer)
    outcome = world.exchange({"a": b"ab"})["a"]
    assert (outcome.body, outcome.attempts) == (b"ba", 2)
    assert "was lost and came back" in world.log[0]


def test_a_node_that_is_lost_for_good(world: World) -> None:
    world.add("a", lambda frame: world.nodes["a"].lose())
    outcome = world.exchange({"a": b"ab"}, deadline=0.3)["a"]
    assert outcome.body is None
    assert outcome.reason == "no answer before its deadline of 0.3 s"


def test_lost_in_the_middle_of_many_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "PIECE", 10)
    count = 0

    def lose_eighth(message: Message) -> Error | None:
        nonlocal count
        count += 1
        return Error(code=5, reason="") if count == 8 else None

    world.add("a")
    world.grid.spy = lose_eighth
    body = bytes(range(95))
    outcome = world.exchange({"a": body})["a"]
    assert (outcome.body, outcome.attempts) == (body[::-1], 2)


class _Forger(FlowerTransport):
    """A network that changes a frame of each answer."""

    def __init__(self, grid: LocalGrid, forge: Callable[[Frame], Frame]) -> None:
        super().__init__(grid, poll=0.01, node_poll=0.02)
        pull = grid.pull

        def forged(wanted: Set[str]) -> list[Message]:
            replies = pull(wanted)
            for reply in replies:
                reply.content = payload.pack(forge(payload.unpack(reply.content)))
            return replies

        grid.pull = forged  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "forged",
    [
        Frame("reply", {"exchange": "0" * 16, "index": 0, "count": 1}),
        Frame("reply", {"index": 0, "count": 1}),
        Frame("surprise", {"exchange": "?"}),
        Frame("reply", {"exchange": "?", "index": 1, "count": 2}),
        Frame("reply", {"exchange": "?", "index": 0, "count": 0}),
        Frame("reply", {"exchange": "?", "index": -1, "count": 1}),
    ],
)
def test_a_forging_network_is_reported(world: World, forged: Frame) -> None:
    def forge(true: Frame) -> Frame:
        meta = {**forged.meta}
        if meta.get("exchange") == "?":
            meta["exchange"] = true.meta["exchange"]
        return Frame(forged.kind, meta, b"")

    world.add("a")
    outcomes: list[Outcome] = []
    _Forger(world.grid, forge).exchange({"a": b"ab"}, 5.0, outcomes.append)
    (outcome,) = outcomes
    assert outcome.body is None
    assert outcome.reason


def test_an_endless_answer_is_refused_at_its_start(world: World) -> None:
    def forge(true: Frame) -> Frame:
        return Frame("reply", {**true.meta, "count": 1 << 40}, b"")

    world.add("a")
    outcomes: list[Outcome] = []
    _Forger(world.grid, forge).exchange({"a": b"ab"}, 5.0, outcomes.append)
    assert "pieces" in outcomes[0].reason


def test_more_than_the_enclave_reads_is_refused_at_its_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each site of a job of small adapters could have the relay hold gigabytes for it."""
    monkeypatch.setattr(payload, "PIECE", 4)
    asked: list[str] = []

    def answer(frame: Frame) -> Frame:
        asked.append(frame.kind)
        return Frame("reply", {}, bytes(40))

    world.add("a", answer)
    outcomes: list[Outcome] = []
    transport = FlowerTransport(world.grid, poll=0.01, node_poll=0.02)
    transport.exchange({"a": b"ab"}, 20.0, outcomes.append, limit=12)
    assert (outcomes[0].body, outcomes[0].reason) == (None, "an answer of 10 pieces")
    transport.exchange({"a": b"ac"}, 20.0, outcomes.append, limit=40)
    assert outcomes[1].body == bytes(40)


def test_a_site_that_answers_every_piece_with_a_whole_answer_is_reported_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both answers arrive in one look; the second must not end the relay."""
    monkeypatch.setattr(payload, "PIECE", 2)
    asked: list[Message] = []
    grid = world.grid
    world.add("a")

    def push(message: Message) -> str:
        asked.append(message)
        message.metadata.__dict__["_message_id"] = f"m{len(asked)}"
        return f"m{len(asked)}"

    def pull(wanted: Set[str]) -> list[Message]:
        replies = []
        for message in asked:
            exchange = payload.unpack(message.content).meta["exchange"]
            answer = Frame("reply", {"exchange": exchange, "index": 0, "count": 1}, b"x")
            replies.append(Message(payload.pack(answer), reply_to=message))
        return replies

    monkeypatch.setattr(grid, "push", push)
    monkeypatch.setattr(grid, "pull", pull)
    assert world.exchange({"a": b"abcd"})["a"].body == b"x"
    assert len(asked) == 2


def test_of_two_nodes_with_one_name_the_latest_is_asked(world: World) -> None:
    world.add("a", lambda frame: Frame("failed", {"message": "old"}))
    later = world.add("a", backwards)
    later.activation = 7
    assert world.exchange({"a": b"ab"})["a"].body == b"ba"
