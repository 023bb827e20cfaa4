"""Flower in one process: an in-memory grid with SuperNodes as threads.

It keeps Flower's promises and no others: each node works on one message at a time, in order; a
reply names the message it replies to; a message to a lost node is lost with it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Set

from flwr.app import Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from sealtune.federation.link_grid import LinkGrid


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


class LocalGrid(LinkGrid):
    """A grid over ``LocalNode``s.

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
        self.sites = {node.node_id: node for node in nodes}
        self.spy = spy
        self._where: dict[str, LocalNode] = {}
        self._errors: dict[str, Message] = {}
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SUPERLINK_NODE_ID, 1

    def nodes(self) -> list[NodeInfo]:
        """The nodes that are online."""
        return [
            NodeInfo(
                node_id=node.node_id,
                name=node.name,
                status="online",
                last_activated_at=f"{node.activation:08d}",
            )
            for node in self.sites.values()
            if node.online
        ]

    def push(self, message: Message) -> str:
        """Queue a message at its node; returns its id."""
        message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's grids do
        identity = message.metadata.message_id
        error = self.spy(message)
        if error is not None:
            self._errors[identity] = Message(error, reply_to=message)
        else:
            self._where[identity] = self.sites[message.metadata.dst_node_id]
            self._where[identity].put(message)
        return identity

    def pull(self, wanted: Set[str]) -> list[Message]:
        """Replies that are there."""
        replies = [self._errors.pop(identity, None) for identity in wanted]
        replies += [self._where[i].take(i) for i in wanted if i in self._where]
        return [reply for reply in replies if reply is not None]

    def close(self) -> None:
        """End the nodes' threads."""
        for node in self.sites.values():
            node.close()
