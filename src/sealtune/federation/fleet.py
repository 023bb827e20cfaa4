"""The part of Flower's SuperLink that faces the network: seven operations of its Fleet API.

Flower's own SuperLink serves three interfaces on one port: Fleet for SuperNodes, Runtime for apps,
and Control, with which whoever reaches the port starts and stops runs and registers nodes. Here
there are no Control and no Runtime, and of Fleet there is neither registration nor anything about
runs and apps. Who does not show a known node key is turned away before the body is read.

Trust domain: network engine (untrusted), on the server operator's side.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Annotated
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.routing import APIRoute
from flwr.app import Message
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import http_error_translator
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import (
    PROTOBUF_REQUEST_DEPENDENCY,
    ProtobufTranslationMiddleware,
)
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sealtune.errors import FrameError
from sealtune.federation.objects import MAX_OBJECT, names

MAX_REQUEST = MAX_OBJECT + (1 << 16)  # bytes
HOLD = 15.0  # seconds that a question for messages is kept when there are none
LOOK = 0.03  # seconds between two looks for a message meanwhile

PREFIX = "/v1/fleet"
router = APIRouter(prefix=PREFIX, route_class=ProtobufRoute)
_newest: WeakKeyDictionary[InMemoryLinkState, dict[int, object]] = WeakKeyDictionary()
State = Annotated[InMemoryLinkState, Depends(get_linkstate)]


@router.post("/activate-node")
def activate_node(
    request: Annotated[ActivateNodeRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> ActivateNodeResponse:
    """Join. A program that was killed may come back at once, and finds nothing waiting."""
    node = state.get_node_id_by_public_key(request.public_key)
    if node is not None:
        state.deactivate_node(node)
        state.get_message_ins(node, limit=None)
        for stale in _unconfirmed(state, node):
            state.object_store.delete(stale.metadata.message_id)
    return fleet_handlers.activate_node(request, state)


@router.post("/send-node-heartbeat")
def send_node_heartbeat(
    request: Annotated[SendNodeHeartbeatRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> SendNodeHeartbeatResponse:
    """Still here."""
    return fleet_handlers.send_node_heartbeat(request, state)


@router.post("/pull-messages")
async def pull_messages(
    request: Annotated[PullMessagesRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> PullMessagesResponse:
    """The next message, as soon as there is one; the same again for who did not get it.

    Of a node's questions the newest is kept: others are of connections that broke, or would have
    the relay look on behalf of one site all the time.
    """
    node = request.node.node_id
    joined = _joined(state, node)
    newest = _newest.setdefault(state, {})
    newest[node] = own = object()
    end = time.monotonic() + HOLD
    while True:
        with state.lock:
            if _joined(state, node) != joined or newest[node] is not own:
                return PullMessagesResponse()  # whoever asked was replaced
            for lost in _unconfirmed(state, node):
                lost.metadata.delivered_at = ""  # the answer that it was in did not arrive
            answer = fleet_handlers.pull_messages(request, state, state.object_store)
        if answer.messages_list or time.monotonic() > end:
            return answer
        await asyncio.sleep(LOOK)


@router.post("/pull-object")
def pull_object(
    request: Annotated[PullObjectRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> PullObjectResponse:
    """Part of a message's content."""
    return fleet_handlers.pull_object(request, state)


@router.post("/confirm-message-received")
def confirm_message_received(
    request: Annotated[ConfirmMessageReceivedRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> ConfirmMessageReceivedResponse:
    """The content has arrived."""
    return fleet_handlers.confirm_message_received(request, state, state.object_store)


@router.post("/push-messages")
def push_messages(
    request: Annotated[PushMessagesRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> PushMessagesResponse:
    """A reply, of the site that sends it."""
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise HTTPException(422, "one message at a time")
    if request.messages_list[0].metadata.src_node_id != request.node.node_id:
        raise HTTPException(403, "this is another node's message")
    tree = request.message_object_trees[0]
    try:
        named = names(tree)
    except FrameError as error:
        raise HTTPException(422, error.message) from error
    if tree.object_id != request.messages_list[0].metadata.message_id:
        raise HTTPException(422, "a message whose content is another's")
    store = state.object_store
    if tree.object_id in store and not all(name in store for name in named):
        # Announced again and again, each time with more, it would fill the memory.
        raise HTTPException(422, "a message that was announced with other content")
    answer = fleet_handlers.push_messages(request, state)
    if not answer.objects_to_push and tree.object_id in store:
        # A repeat: the first answer did not arrive, and LinkGrid has taken the head.
        answer.objects_to_push.extend(state.preregister_object_tree(tree, answer.session_id))
    return answer


@router.post("/push-object")
def push_object(
    request: Annotated[PushObjectRequest, PROTOBUF_REQUEST_DEPENDENCY], state: State
) -> PushObjectResponse:
    """Part of a reply's content."""
    return fleet_handlers.push_object(request, state)


def _unconfirmed(state: InMemoryLinkState, node: int) -> list[Message]:
    """Messages that were given to a node, and have not arrived as far as it says.

    A node asks for the next message when it has the last one, so one that asks has lost these.
    """
    with state.lock:
        return [
            message
            for message in state.message_ins_store.values()
            if message.metadata.dst_node_id == node
            and message.metadata.delivered_at
            and message.metadata.message_id in state.object_store
        ]


def _joined(state: InMemoryLinkState, node: int) -> str:
    """When the node joined."""
    return "".join(info.last_activated_at for info in state.get_node_info(node_ids=[node]))


class Gate:
    """Lets operations of the Fleet API pass, of a known node, and of a known length."""

    def __init__(self, app: ASGIApp, keys: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open = frozenset(route.path for route in router.routes if isinstance(route, APIRoute))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        refusal = self._refusal(scope) if scope["type"] == "http" else 404
        if refusal == 0:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            answer = PlainTextResponse(status_code=refusal, headers={"connection": "close"})
            await answer(scope, receive, send)

    def _refusal(self, scope: Scope) -> int:
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if scope["method"] != "POST" or scope["path"] not in self._open:
            return 404
        if headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, "") not in self._keys:
            return 401
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            return 411
        return 413 if int(length) > MAX_REQUEST else 0


def application(state: InMemoryLinkState, keys: frozenset[str]) -> FastAPI:
    """The application for ``state``.

    Args:
        state: where messages wait.
        keys: the public keys of nodes that may come, as they are sent in the header.
    """
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(Gate, keys=keys),
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            Middleware(NodeAuthMiddleware),
        ],
    )
    app.state.linkstate_factory = SimpleNamespace(state=lambda: state)  # as Flower asks for it
    app.include_router(router)
    return app
