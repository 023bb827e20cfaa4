"""The relay's grid: messages whole or not at all, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Set

import pytest
from fastapi import HTTPException
from flwr.app import Error, Message
from flwr.app.message.message import make_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import Node

from sealtune.federation import fleet
from sealtune.federation.enclave_link import Outcome
from sealtune.federation.fleet import activate_node, confirm_message_received, push_messages
from sealtune.federation.flower_transport import FlowerTransport
from sealtune.federation.link_grid import LinkGrid, link_state
from sealtune.federation.membership import HEARTBEAT
from sealtune.federation.objects import Parts, names, put_together, take_apart
from sealtune.federation.payload import pack, unpack
from sealtune.frames import Frame


def named(text: str) -> str:
    """A name that an object could have."""
    return hashlib.sha256(text.encode()).hexdigest()


class World:
    """A relay's state and one site in it."""

    def __init__(self) -> None:
        self.state = link_state()
        self.node = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"key", 0, name="a")
        self.grid = LinkGrid(self.state)
        self.join()

    def join(self) -> None:
        activate_node(
            ActivateNodeRequest(public_key=b"key", heartbeat_interval=HEARTBEAT), self.state
        )

    def send(self, body: bytes = b"question") -> str:
        message = Message(pack(Frame("put", {}, body)), self.node, "query.sealed", ttl=60.0)
        return self.grid.push(message)

    def fetch(self) -> Message:
        """What the site's program does with the next message."""
        (head,) = self.state.get_message_ins(self.node, limit=1)
        identity = head.metadata.message_id
        store = self.state.object_store
        tree = store.get_object_tree(identity)
        contents = {name: store.get(name) or b"" for name in names(tree)}
        store.delete(identity)
        return put_together(identity, contents)

    def reply(self, message: Message, body: bytes = b"answer") -> Parts:
        return take_apart(Message(pack(Frame("reply", {}, body)), reply_to=message))

    def store(self, parts: Parts, which: Callable[[str], bool] = lambda name: True) -> str:
        """Announce a reply, and store the objects that ``which`` picks."""
        run = self.grid.run.run_id
        session = self.state.start_session(run)
        _, wanted = self.state.store_message_and_object_tree(parts.head, parts.tree, session)
        for name in filter(which, wanted):
            assert self.state.store_object(run, session, name, parts.contents[name])
        return session

    def push(self, parts: Parts, tree: ObjectTree) -> None:
        """What a site may ask of the Fleet API: announce a reply, with any tree."""
        request = PushMessagesRequest(
            node=Node(node_id=self.node),
            messages_list=[message_to_proto(parts.head)],
            message_object_trees=[tree],
        )
        push_messages(request, self.state)

    def confirm(self, parts: Parts) -> None:
        """The same, to have a message's objects deleted."""
        request = ConfirmMessageReceivedRequest(
            node=Node(node_id=self.node),
            run_id=self.grid.run.run_id,
            message_object_id=parts.head.metadata.message_id,
        )
        confirm_message_received(request, self.state)


@pytest.fixture
def world() -> World:
    return World()


def test_there_and_back_and_nothing_stays(world: World) -> None:
    identity = world.send()
    assert world.grid.pull({identity}) == []
    message = world.fetch()
    assert unpack(message.content).body == b"question"
    world.store(world.reply(message))
    (reply,) = world.grid.pull({identity})
    assert unpack(reply.content).body == b"answer"
    assert reply.metadata.reply_to_message_id == identity
    assert len(world.state.object_store) == 0
    assert (world.state.num_message_ins(), world.state.num_message_res()) == (0, 0)


def test_a_reply_is_waited_for_until_it_is_whole(world: World) -> None:
    identity = world.send()
    parts = world.reply(world.fetch())
    top = parts.head.metadata.message_id
    session = world.store(parts, lambda name: name != top)
    assert world.grid.pull({identity}) == []
    run = world.grid.run.run_id
    assert world.state.store_object(run, session, top, parts.contents[top])
    (reply,) = world.grid.pull({identity})
    assert unpack(reply.content).body == b"answer"


def test_a_reply_that_nobody_waits_for_any_more_goes(world: World) -> None:
    identity = world.send()
    world.store(world.reply(world.fetch()), lambda name: False)
    assert world.grid.pull({identity}) == []
    assert world.grid.pull(set()) == []
    assert len(world.state.object_store) == 0


def test_a_site_cannot_pretend_to_be_lost(world: World) -> None:
    """An error of Flower's, made up by the site, is none: its message would be sent anew."""
    identity = world.send()
    forged = Message(Error(ErrorCode.NODE_UNAVAILABLE, "\x1b[2Jboo"), reply_to=world.fetch())
    parts = take_apart(forged)
    head = make_message(parts.head.metadata, content=pack(Frame("x")))
    world.store(Parts(head, parts.tree, parts.contents))
    (reply,) = world.grid.pull({identity})
    assert (reply.has_content(), reply.error.code) == (False, ErrorCode.UNKNOWN)
    assert "boo" not in reply.error.reason


def test_the_content_must_be_an_answer_to_the_question(world: World) -> None:
    first, second = world.send(b"one"), world.send(b"two")
    messages = {m.metadata.message_id: m for m in (world.fetch(), world.fetch())}
    other = world.reply(messages[second])
    announced = world.reply(messages[first]).head.metadata
    announced.__dict__["_message_id"] = other.head.metadata.message_id
    head = make_message(announced, content=pack(Frame("x")))
    world.store(Parts(head, other.tree, other.contents))
    (reply,) = world.grid.pull({first})
    assert reply.error.code == ErrorCode.UNKNOWN


def test_a_site_that_deletes_its_own_reply_fails_alone(world: World) -> None:
    identity = world.send()
    parts = world.reply(world.fetch())
    world.push(parts, parts.tree)
    world.confirm(parts)
    (reply,) = world.grid.pull({identity})
    assert reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE


@pytest.mark.parametrize("root", [named("another"), "no digest"])
def test_a_reply_announced_with_other_content_fails_alone(world: World, root: str) -> None:
    world.send()
    parts = world.reply(world.fetch())
    with pytest.raises(HTTPException, match="another's"):
        world.push(parts, ObjectTree(object_id=root))
    other = world.send()
    parts = world.reply(world.fetch())
    with contextlib.suppress(ValueError):  # beneath the Fleet API
        world.store(Parts(parts.head, ObjectTree(object_id=root), parts.contents), lambda _: False)
    (reply,) = world.grid.pull({other})
    assert reply.error.code == ErrorCode.REPLY_MESSAGE_UNAVAILABLE


def test_trees_that_grow_from_reply_to_reply_fail_their_site_alone(world: World) -> None:
    """Each is small, and refers to the one before many times: 12^12 objects in the end."""
    before: list[ObjectTree] = []
    for number in range(12):
        world.send()
        parts = world.reply(world.fetch())
        top = parts.head.metadata.message_id
        # the reply is a child of its own child, so that it is never deleted
        below = ObjectTree(
            object_id=named(str(number)), children=[ObjectTree(object_id=top), *before * 12]
        )
        world.push(parts, ObjectTree(object_id=top, children=[below]))
        before = [ObjectTree(object_id=below.object_id)]
    identity = world.send()
    parts = world.reply(world.fetch())
    top = parts.head.metadata.message_id
    world.push(parts, ObjectTree(object_id=top, children=before))
    (reply,) = world.grid.pull({identity})
    assert "more than" in reply.error.reason


def test_a_repeat_announces_nothing_new(world: World) -> None:
    """The first answer counts: with others, a site would fill the relay's memory."""
    world.send()
    parts = world.reply(world.fetch())
    world.push(parts, parts.tree)
    before = set(world.state.object_store.store)
    top = parts.head.metadata.message_id
    for number in range(3):
        more = [ObjectTree(object_id=named(f"{number} {i}")) for i in range(8)]
        with pytest.raises(HTTPException, match="other content"):
            world.push(parts, ObjectTree(object_id=top, children=more))
    world.push(parts, parts.tree)
    assert set(world.state.object_store.store) == before


def test_one_question_of_a_site_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand at once would be a thousand looks at a time, and leave none for the others."""
    monkeypatch.setattr(fleet, "HOLD", 3600.0)
    request = PullMessagesRequest(node=Node(node_id=world.node))

    async def ask() -> None:
        asked = [asyncio.ensure_future(fleet.pull_messages(request, world.state)) for _ in range(9)]
        for one in asked[:-1]:
            assert not (await asyncio.wait_for(one, 20)).messages_list
        assert not asked[-1].done()
        world.send()
        assert len((await asyncio.wait_for(asked[-1], 20)).messages_list) == 1

    asyncio.run(ask())


def test_what_sites_get_alike_cannot_be_spoiled_by_the_first_of_them(world: World) -> None:
    """Pieces of equal bytes have one name. Site a knows it before b is sent the same, and makes up
    that it consists of something."""
    alike = bytes(12 << 20)
    world.send(b"a" + alike)
    message = world.fetch()
    other = world.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, b"other", 0, name="b")
    activate_node(
        ActivateNodeRequest(public_key=b"other", heartbeat_interval=HEARTBEAT), world.state
    )
    sent = Message(pack(Frame("put", {}, b"b" + alike)), other, "query.sealed", ttl=60.0)
    foreseen = names(take_apart(message).tree)
    parts = world.reply(message)
    made_up = [
        ObjectTree(object_id=name, children=[ObjectTree(object_id=named(name))])
        for name in foreseen[:6]
    ]
    world.push(parts, ObjectTree(object_id=parts.head.metadata.message_id, children=made_up))
    identity = world.grid.push(sent)
    right = take_apart(sent).tree
    assert set(names(right)) & set(foreseen), "some pieces are the same"
    tree = world.state.object_store.get_object_tree(identity)
    assert tree == right
    assert all(world.state.object_store.get(name) for name in names(tree))


def test_a_site_that_joins_anew_finds_nothing_waiting(world: World) -> None:
    """What was on its way to the killed program would meet one that knows nothing of it."""
    before = [node.last_activated_at for node in world.grid.nodes()]
    world.send()
    world.join()
    assert world.state.get_message_ins(world.node, limit=None) == []
    assert len(world.state.object_store) == 0
    assert [node.last_activated_at for node in world.grid.nodes()] != before


def test_errors_of_a_site_reach_the_aggregator_as_its_absence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[Outcome] = []
    pull = world.grid.pull

    def answered(wanted: Set[str]) -> list[Message]:
        for question in world.state.get_message_ins(world.node, limit=None):
            parts = take_apart(Message(Error(5, "x"), reply_to=question))
            head = make_message(parts.head.metadata, content=pack(Frame("x")))
            world.store(Parts(head, parts.tree, parts.contents))
        return pull(wanted)

    monkeypatch.setattr(world.grid, "pull", answered)
    FlowerTransport(world.grid, poll=0.01).exchange({"a": b"x"}, 20.0, outcomes.append)
    (outcome,) = outcomes
    assert (outcome.body, outcome.attempts) == (None, 1)
    assert "an error in place of an answer" in outcome.reason
