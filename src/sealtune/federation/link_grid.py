"""What Flower's ``Grid`` does, over a link state in this very process.

Flower's own talks to a SuperLink over HTTP, as the app of a run that a SuperExec started. Here run
and link state are made in the relay's process: there is no app, and nobody else can make a run.

Trust domain: network engine (untrusted), on the server operator's side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Set
from copy import deepcopy
from typing import NoReturn

from flwr.app import Error, Message
from flwr.app.message.message import make_message
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from sealtune.errors import FederationError, FrameError
from sealtune.federation.objects import MAX_OBJECTS, put_together, take_apart

_BEAT = 20.0  # seconds; Flower ends a run whose app was silent for a minute


def link_state() -> InMemoryLinkState:
    """An empty link state."""
    return InMemoryLinkState(NoOpFederationManager(), InMemoryObjectStore())


class LinkGrid:
    """A run without an app, and its messages; they come to be from this process's identity.

    Args:
        state: the link state; the run is made in it.

    Attributes:
        run: the run.

    Raises:
        FederationError: Flower refuses to make the run.
    """

    def __init__(self, state: InMemoryLinkState) -> None:
        self._state = state
        self._arriving: dict[str, Message] = {}  # replies whose content is on its way, by request
        run_id = state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (self.run,) = state.get_run_info(run_ids=[run_id])
        task = self.run.primary_task_id
        if task is None or state.claim_task(task) is None or not state.activate_task(task):
            raise FederationError("Flower refuses to make a run")
        TaskIdentity.run_id, TaskIdentity.task_id = run_id, task
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        threading.Thread(target=self._beat, args=(task,), daemon=True, name="run").start()

    def nodes(self) -> list[NodeInfo]:
        """The nodes that are online."""
        online = list(self._state.get_nodes(self.run.run_id))
        return deepcopy(list(self._state.get_node_info(node_ids=online)))

    def push(self, message: Message) -> str:
        """Send a message; returns its id, empty if Flower refuses it."""
        parts = take_apart(message)
        session = self._state.start_session(self.run.run_id)
        # Content first: whoever sees the message finds all of it.
        wanted = self._state.preregister_object_tree(parts.tree, session)
        self._set_right(parts.tree)
        for name in wanted:
            self._state.store_object(self.run.run_id, session, name, parts.contents[name])
        identity: str | None = self._state.store_message_ins(parts.head)
        if identity is None:
            self._state.object_store.delete(parts.head.metadata.message_id)
        return identity or ""

    def pull(self, wanted: Set[str]) -> list[Message]:
        """Replies that have arrived whole; in place of what makes no reply, an error.

        Args:
            wanted: ids of the messages that are still waited for.
        """
        for given_up in self._arriving.keys() - wanted:
            self._delete(self._arriving.pop(given_up))
        missing = wanted - self._arriving.keys()
        replies = []
        for head in self._state.get_message_res(message_ids=missing, run_id=self.run.run_id):
            request = head.metadata.reply_to_message_id
            self._state.delete_messages({request})
            self._state.object_store.delete(request)
            if head.has_error():  # of Flower's own making
                self._delete(head)
                replies.append(head)
            else:
                self._arriving[request] = head
        for request, head in list(self._arriving.items()):
            reply = self._whole(head)
            if reply is not None:
                del self._arriving[request]
                self._delete(head)
                replies.append(reply)
        return replies

    def _set_right(self, tree: ObjectTree) -> None:
        """Have a message's objects consist of what they do.

        What several sites get alike has pieces of the same names: the first of them could have
        announced, as part of a reply, that such a piece has parts that nobody finds.
        """
        store = self._state.object_store
        todo = [tree]
        with store.lock_store:
            while todo:
                node = todo.pop()
                entry, parts = store.store[node.object_id], [c.object_id for c in node.children]
                made_up, todo = entry.child_object_ids, [*todo, *node.children]
                if made_up == parts:
                    continue
                entry.child_object_ids = parts
                for name in parts:
                    store.store[name].ref_count += 1
                for name in made_up:
                    store.store[name].ref_count -= 1
                    store.delete(name)

    def _whole(self, head: Message) -> Message | None:
        """The reply with its content, when that is there."""
        identity = head.metadata.message_id
        try:
            contents = self._contents(identity)
        except FrameError as error:
            return _error(head, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, error.message)
        if contents is None:
            return None
        try:
            reply = put_together(identity, contents)
        except FrameError as error:
            return _error(head, ErrorCode.UNKNOWN, error.message)
        if reply.metadata.reply_to_message_id != head.metadata.reply_to_message_id:
            return _error(head, ErrorCode.UNKNOWN, "its content is another message's")
        if not reply.has_content():  # Flower's errors are Flower's to make
            return _error(head, ErrorCode.UNKNOWN, "it sent an error in place of an answer")
        return reply

    def _contents(self, identity: str) -> dict[str, bytes] | None:
        """The objects of a reply; None while one is on its way.

        Flower's ``get_object_tree`` is not used: what a site registered earlier can make its tree
        as large as it likes, and a site can delete what it registered.

        Raises:
            FrameError: there are too many, or one is gone.
        """
        contents: dict[str, bytes] = {}
        todo = [identity]
        while todo:
            name = todo.pop()
            if name in contents:
                continue
            stored = self._state.object_store.store.get(name)
            if stored is None:
                raise FrameError("its content is gone")
            contents[name] = stored.content
            if len(contents) > MAX_OBJECTS or len(stored.child_object_ids) > MAX_OBJECTS:
                raise FrameError(f"a Flower message of more than {MAX_OBJECTS} objects")
            todo += stored.child_object_ids
        return contents if all(contents.values()) else None

    def _delete(self, head: Message) -> None:
        self._state.object_store.delete(head.metadata.message_id)

    def _beat(self, task: int) -> NoReturn:
        while True:
            time.sleep(_BEAT)
            self._state.acknowledge_task_heartbeat(task)


def _error(head: Message, code: int, reason: str) -> Message:
    return make_message(metadata=head.metadata, error=Error(code, reason))
