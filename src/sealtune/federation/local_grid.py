"""Flower in one process: an in-memory ``Grid`` with SuperNodes as threads, for tests.

It keeps Flower's promises and no others: each node works on one message at a time, in order; a
reply names the message it replies to; a message to a lost node is lost with it.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

from flwr.app import Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo

from sealtune.federation.grid import OneRunGrid


class LocalNode:
    """One SuperNode: a thread that answers messages.

    Args:
        name: the site.
        node_id: any id but 1.
        answer: makes the reply to a message.
    """

    def __init__(self, name: str, node_id: int, answer: Callable[[Message], Message]) -> None:
        self.name = name
        self.node_id = node_id
        self.online = True
        self.activation = 1
        self._answer = answer
        self._inbox: queue.Queue[tuple[int, Message] | None] = queue.Queue()
        self._replies: dict[str, Message] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue an instruction."""
        self._inbox.put((self.activation, message))

    def take(self, identity: str) -> Message | None:
        """The reply to instruction ``identity``, once, when it is there."""
        return self._replies.pop(identity, None)

    def lose(self) -> None:
        """Drop out together with everything that is queued or under way."""
        self.online = False
        self.activation += 1
        self._replies.clear()

    def rejoin(self) -> None:
        """Come back, empty-handed."""
        self.online = True

    def close(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        while (item := self._inbox.get()) is not None:
            activation, message = item
            if activation != self.activation:
                continue
            reply = self._answer(message)
            if activation == self.activation:
                self._replies[message.metadata.message_id] = reply


class LocalGrid(OneRunGrid):
    """A ``Grid`` over ``LocalNode``s.

    Args:
        nodes: the SuperNodes.
        spy: called with every instruction before it is delivered; it may answer in the node's
            place (return an ``Error``) or let it pass (return None).
    """

    def __init__(
        self,
        nodes: Iterable[LocalNode],
        spy: Callable[[Message], Error | None] = lambda message: None,
    ) -> None:
        self.nodes = {node.node_id: node for node in nodes}
        self.spy = spy
        self._where: dict[str, LocalNode] = {}
        self._errors: dict[str, Message] = {}
        super().__init__(run=1, node=SUPERLINK_NODE_ID, task=1)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are online."""
        return [node.node_id for node in self.nodes.values() if node.online]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes that are online."""
        return [
            NodeInfo(
                node_id=node.node_id,
                name=node.name,
                status="online",
                last_activated_at=f"{node.activation:08d}",
            )
            for node in self.nodes.values()
            if node.online
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages at their nodes; returns their ids."""
        identities = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's grids do
            identity = message.metadata.message_id
            identities.append(identity)
            error = self.spy(message)
            if error is not None:
                self._errors[identity] = Message(error, reply_to=message)
                continue
            node = self.nodes[message.metadata.dst_node_id]
            self._where[identity] = node
            node.put(message)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are there."""
        replies = []
        for identity in message_ids:
            reply = self._errors.pop(identity, None)
            if reply is None and identity in self._where:
                reply = self._where[identity].take(identity)
            if reply is not None:
                replies.append(reply)
        return replies

    def close(self) -> None:
        """End the nodes' threads."""
        for node in self.nodes.values():
            node.close()
