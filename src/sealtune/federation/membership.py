"""A site's membership: Flower's Fleet API, spoken as a SuperNode.

A connection that breaks is made anew, and what it swallowed is asked again: the relay takes each
operation twice. So a cut of two minutes costs what was on its way, and no message starts over.

Of that API it uses what moves messages. It never asks for a run or for an app (``GetRun``,
``GetFab``): there is nothing here that could unpack, import or start one. What the relay answers is
bounded before it is read, and a redirection is not followed.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TypeVar

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
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from sealtune.errors import FrameError
from sealtune.federation.objects import MAX_OBJECT, names, put_together, take_apart

MAX_RESPONSE = MAX_OBJECT + (1 << 16)  # bytes
HEARTBEAT = 75.0  # seconds; Flower takes a node for lost after twice that
PERSIST = 180.0  # seconds that a broken connection is made anew before the stay is over
PARALLEL = 4  # objects of a message that are under way at the same time
_BEAT = 10.0  # seconds between two heartbeats
_PAUSE = 0.2  # seconds before a broken connection is made anew
_TELL = 2.0  # seconds of such trouble that are told of
_IDLE = 60.0  # seconds that an unused connection stands; the relay keeps it longer
# Seconds without a single byte. A slow link takes that long to empty what the kernel holds of an
# object that was sent; a question for messages is answered within 15.
_SILENCE = httpx.Timeout(120.0, connect=20.0)
_SILENCE_OF_QUESTION = httpx.Timeout(25.0, connect=20.0)
A = TypeVar("A")
R = TypeVar("R")


class Membership:
    """One stay in the relay's fleet. Joining replaces an earlier stay under the same key.

    Args:
        address: the relay's, ``host:port``.
        authority: certificate (PEM) of the authority that vouches for the relay.
        key: the site's node key.
        tell: told what is the matter while the relay does not answer a question for messages, when
            nothing is under way; and of nothing once it answers again.

    Raises:
        httpx.HTTPError: the relay is not there, or refuses this key.
    """

    def __init__(
        self,
        address: str,
        authority: str,
        key: ec.EllipticCurvePrivateKey,
        tell: Callable[[str], None] = lambda trouble: None,
    ) -> None:
        self._tell = tell
        self._client = FleetHttpClient(
            f"https://{address}",
            interceptors=[_patience, NodeAuthHttpInterceptor(key, key.public_key())],
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
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="objects")
        self._confirmation: Future[object] | None = None
        self._heart = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._heart.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def receive(self) -> tuple[Message, ObjectTree] | None:
        """The next message, without content, and what its content consists of; None if none came.

        Raises:
            httpx.HTTPError: the relay went away, or refuses.
            FrameError: it sent nonsense.
        """
        if self._confirmation is not None:
            self._confirmation.result()  # who asks before that is given the same message again
            self._confirmation = None
        question = PullMessagesRequest(node=self._node)
        answer = self._insist(self._client.PullMessages, question, self._tell)
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

        def fetch(name: str) -> bytes:
            question = PullObjectRequest(node=self._node, run_id=run, object_id=name)
            answer = self._insist(self._client.PullObject, question)
            if not answer.object_found or not answer.object_available:
                raise FrameError("the relay does not have the message that it announced")
            content: bytes = answer.object_content
            return content

        wanted = names(tree)
        contents = dict(zip(wanted, self._pool.map(fetch, wanted), strict=True))
        message = put_together(identity, contents)
        told = ConfirmMessageReceivedRequest(
            node=self._node, run_id=run, message_object_id=identity
        )
        self._confirmation = self._pool.submit(
            self._insist, self._client.ConfirmMessageReceived, told
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
        answer = self._insist(self._client.PushMessages, request)

        def push(name: str) -> None:
            part = PushObjectRequest(
                node=self._node,
                run_id=reply.metadata.run_id,
                object_id=name,
                object_content=parts.contents[name],
                session_id=answer.session_id,
            )
            self._insist(self._client.PushObject, part)

        list(self._pool.map(push, parts.contents.keys() & set(answer.objects_to_push)))

    def _insist(
        self, call: Callable[[R], A], request: R, tell: Callable[[str], None] = lambda trouble: None
    ) -> A:
        """Ask, over one connection after another if need be."""
        first, told = None, False
        while True:
            try:
                answer = call(request)
            except httpx.TransportError as error:
                first = first or time.monotonic()
                lasted = time.monotonic() - first
                if lasted > _TELL and not told:
                    told = True
                    tell(f"{type(error).__name__}: {error}")
                if lasted > PERSIST or self._left.wait(_PAUSE):
                    raise
            else:
                if told:
                    tell("")
                return answer

    def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT)
        while not self._left.wait(_BEAT):
            with contextlib.suppress(httpx.HTTPError, FrameError, RuntimeError):
                self._client.SendNodeHeartbeat(request)


class _Patience:
    """Gives a question for messages less time than the transport of an object."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Flower's hook."""
        if isinstance(context.message, PullMessagesRequest):
            context.request.extensions["timeout"] = _SILENCE_OF_QUESTION.as_dict()
        response: httpx.Response = call_next(context)
        return response


_patience = _Patience()


def _http(authority: str) -> httpx.Client:
    """A client that trusts one authority, follows nobody and reads no more than it must."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    return httpx.Client(
        verify=context,
        timeout=_SILENCE,
        limits=httpx.Limits(keepalive_expiry=_IDLE),
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
