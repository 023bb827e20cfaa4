"""A site's membership: Flower's Fleet API, spoken as a SuperNode.

Of that API it uses what moves messages. It never asks for a run or for an app (``GetRun``,
``GetFab``): there is nothing here that could unpack, import or start one. What the relay answers is
bounded before it is read, and a redirection is not followed.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from sealtune.errors import FrameError
from sealtune.federation.objects import MAX_OBJECT, names, put_together, take_apart

MAX_RESPONSE = MAX_OBJECT + (1 << 16)  # bytes
HEARTBEAT = 30.0  # seconds; Flower takes a node for lost after twice that
_BEAT = 10.0  # seconds between two heartbeats
_TIMEOUT = 40.0  # seconds; longer than the relay keeps a question for messages waiting


class Membership:
    """One stay in the relay's fleet. Joining replaces an earlier stay under the same key.

    Args:
        address: the relay's, ``host:port``.
        authority: certificate (PEM) of the authority that vouches for the relay.
        key: the site's node key.

    Raises:
        httpx.HTTPError: the relay is not there, or refuses this key.
    """

    def __init__(self, address: str, authority: str, key: ec.EllipticCurvePrivateKey) -> None:
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )
        self._client._client.close()
        self._client._client = _http(authority)
        try:
            joined = self._client.ActivateNode(
                ActivateNodeRequest(
                    public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT
                )
            )
        except BaseException:
            self._client.close()
            raise
        self._node = Node(node_id=joined.node_id)
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._heart.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._client.close()

    def receive(self) -> tuple[Message, ObjectTree] | None:
        """The next message, without content, and what its content consists of; None if none came.

        Raises:
            httpx.HTTPError: the relay went away, or refuses.
            FrameError: it sent nonsense.
        """
        answer = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not answer.messages_list:
            return None
        if len(answer.messages_list) != 1 or len(answer.message_object_trees) != 1:
            raise FrameError("the relay sent several messages at once")
        try:
            head = message_from_proto(answer.messages_list[0])
        except Exception as error:  # whatever Flower's parser raises for what was made up
            raise FrameError(f"what is no message: {type(error).__name__}") from error
        return head, answer.message_object_trees[0]

    def complete(self, head: Message, tree: ObjectTree) -> Message:
        """Fetch a message's content.

        Raises:
            httpx.HTTPError: the relay went away, or refuses.
            FrameError: the content is too much, missing, or no message.
        """
        run, identity = head.metadata.run_id, head.metadata.message_id
        if tree.object_id != identity:
            raise FrameError("a message whose content is another's")
        contents = {}
        for name in names(tree):
            answer = self._client.PullObject(
                PullObjectRequest(node=self._node, run_id=run, object_id=name)
            )
            if not answer.object_found or not answer.object_available:
                raise FrameError("the relay does not have the message that it announced")
            contents[name] = answer.object_content
        message = put_together(identity, contents)
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._node, run_id=run, message_object_id=identity)
        )
        return message

    def answer(self, reply: Message) -> None:
        """Send a reply.

        Raises:
            httpx.HTTPError: the relay went away, or refuses.
        """
        parts = take_apart(reply)
        head = message_to_proto(parts.head)
        request = PushMessagesRequest(
            node=self._node, messages_list=[head], message_object_trees=[parts.tree]
        )
        answer = self._client.PushMessages(request)
        for name in parts.contents.keys() & set(answer.objects_to_push):
            part = PushObjectRequest(
                node=self._node,
                run_id=reply.metadata.run_id,
                object_id=name,
                object_content=parts.contents[name],
                session_id=answer.session_id,
            )
            self._client.PushObject(part)

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT)
        while not self._left.wait(_BEAT):
            with contextlib.suppress(httpx.HTTPError, FrameError, RuntimeError):
                self._client.SendNodeHeartbeat(request)


def _http(authority: str) -> httpx.Client:
    """A client that trusts one authority, follows nobody and reads no more than it must."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    return httpx.Client(
        verify=context,
        timeout=_TIMEOUT,
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": [_bounded]},
    )


def _bounded(response: httpx.Response) -> None:
    """Refuse a response of unknown or too great a length; called before its body is read."""
    length = response.headers.get("content-length", "")
    plain = not {"transfer-encoding", "content-encoding"} & set(response.headers)
    stated = length.isascii() and length.isdigit() and len(length) < 12
    if not plain or not stated or int(length) > MAX_RESPONSE:
        raise FrameError("the relay's answer has no length, or too great a one")
