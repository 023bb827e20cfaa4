"""Nodes whose connections break at any point: nothing starts over, and nothing is done twice."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.supercore.task_identity import TaskIdentity

from sealtune.federation import membership
from sealtune.federation.membership import _SILENCE_OF_QUESTION, Membership
from sealtune.federation.payload import MESSAGE_TYPE
from sealtune.frames import Frame
from tests.federation.enclaves import order
from tests.federation.engine import Engine, node_key


class BreakingWire:
    """Carries connections to a port, and breaks each when it has carried so many bytes.

    Attributes:
        port: its own.
        budgets: bytes of each connection, one after another; the relay's answer that exceeds it
            is swallowed whole.
        broken: how many connections it broke.
    """

    def __init__(self, to: int, budgets: Iterator[int]) -> None:
        self.broken = 0
        self.budgets = budgets
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            budget = [next(self.budgets)]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(*ends, budget), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with source, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                budget[0] -= len(data)
                if budget[0] < 0:
                    self.broken += 1
                    break
                sink.sendall(data)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("size", "budgets"),
    [(3, range(3_000, 9_000, 400)), (6 << 20, (5_000, 6 << 20, 9_000, 5_600_000, 30_000))],
)
def test_no_message_starts_over_when_connections_break(
    engine: Engine, size: int, budgets: tuple[int, ...]
) -> None:
    """Questions and answers are swallowed, the small ones and the large ones."""
    engine.relay()
    wire = BreakingWire(engine.port, itertools.cycle(budgets))
    relay = engine.flower
    engine.flower = dataclasses.replace(relay, port=wire.port)
    delivered: list[int] = []

    def enclave(frame: Frame) -> Frame:
        delivered.append(len(frame.body))
        return Frame("reply", {}, bytes(frame.body)[::-1])

    body = bytes(range(256)) * (size // 256) + b"abc"
    engine.node("a", enclave)
    reports = engine.work([order({"a": body[n:]}) for n in range(2)])
    wire.close()
    assert [bytes(report.body) for report in reports] == [body[n:][::-1] for n in range(2)]
    assert delivered == [len(body) - n for n in range(2)]  # each of them once
    assert wire.broken > 3


def test_a_question_for_messages_is_given_up_soon(engine: Engine) -> None:
    """What a cut swallowed is asked again in seconds; an object on a slow link has minutes."""
    engine.relay()
    key = node_key(engine.flower.credentials.nodes["a"])
    seen: list[tuple[str, float]] = []
    with Membership(engine.address, engine.authority, key) as member:

        def look(request: httpx.Request) -> None:
            seen.append((request.url.path, request.extensions["timeout"]["read"]))
            raise httpx.ReadTimeout("enough")

        member._client._client.event_hooks["request"] = [look]
        for call in (member._client.PullMessages, member._client.PushMessages):
            with pytest.raises(httpx.ReadTimeout):
                call(PullMessagesRequest() if call == member._client.PullMessages else _push())
    assert seen[0][1] == _SILENCE_OF_QUESTION.read < 30
    assert seen[1][1] > 100


def _push() -> object:
    from flwr.proto.fleet_pb2 import PushMessagesRequest

    return PushMessagesRequest()


def test_a_lost_relay_is_told_of_when_nothing_is_under_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site whose part is done ends then; one whose answer is on its way must not."""
    monkeypatch.setattr(membership, "_TELL", 0.0)
    relay = engine.relay()
    key = node_key(engine.flower.credentials.nodes["a"])
    told: queue.Queue[str] = queue.Queue()
    with Membership(engine.address, engine.authority, key, told.put) as member:
        relay.kill()
        relay.wait()
        asked = threading.Event()
        answering = threading.Thread(target=_fails, args=(member, "PushMessages", asked))
        answering.start()
        assert asked.wait(60)
        assert told.empty()
        asking = threading.Thread(target=_fails, args=(member, "PullMessages", threading.Event()))
        asking.start()
        assert "ConnectError" in told.get(timeout=60)
    answering.join(60)
    asking.join(60)
    assert told.empty()


def _fails(member: Membership, call: str, asked: threading.Event) -> None:
    """Ask a relay that is not there until the stay is over; ``asked``: more than once."""
    function, count = getattr(member._client, call), itertools.count()

    def counted(request: object) -> object:
        if next(count) == 3:
            asked.set()
        return function(request)

    setattr(member._client, call, counted)
    with contextlib.suppress(httpx.TransportError, RuntimeError):
        if call == "PullMessages":
            member.receive()
        else:
            member.answer(Message(RecordDict(), reply_to=_message()))


def _message() -> Message:
    """A message that could have come from a relay."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1
    message = Message(RecordDict(), 7, MESSAGE_TYPE)
    message.metadata.__dict__["_message_id"] = "m"
    return message


def test_a_node_joins_a_relay_that_was_started_again(engine: Engine) -> None:
    """It knows the key, but not the stay: that is no reason to give up."""
    relay = engine.relay()
    begun, go_on = threading.Event(), threading.Event()

    def slowly(frame: Frame) -> Frame:
        begun.set()
        go_on.wait(60)
        return Frame("reply", {}, bytes(frame.body)[::-1])

    node = engine.node("a", slowly)
    first = threading.Thread(target=engine.work, args=([order({"a": b"lost"})],), daemon=True)
    first.start()
    assert begun.wait(60), engine.log()
    relay.kill()
    relay.wait()
    first.join(60)
    for name in ("work.sock", "server.sock"):
        (engine.folder / name).unlink(missing_ok=True)
    engine.relay()
    go_on.set()
    assert bytes(engine.work([order({"a": b"abc"})])[0].body) == b"cba"
    assert node.poll() is None
