"""What sealtune assumes of Flower beyond its documentation, held against the installed version."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tracemalloc
from importlib import metadata
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.inflatable.inflatable_object import get_object_id
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.routers.fleet import router as flowers
from flwr.superlink.servicer.fleet import fleet_handlers

import sealtune.federation
from sealtune.errors import FrameError
from sealtune.federation import fleet, flower_transport
from sealtune.federation.objects import MAX_OBJECT, MAX_OBJECTS, names, put_together, take_apart
from sealtune.federation.payload import PIECE, pack, unpack
from sealtune.frames import MAX_META, Frame

USED = {
    "activate-node",
    "send-node-heartbeat",
    "pull-messages",
    "pull-object",
    "confirm-message-received",
    "push-messages",
    "push-object",
}


def test_the_pinned_version_is_installed() -> None:
    assert metadata.version("flwr") == "1.41.0"


def test_error_codes() -> None:
    assert set(flower_transport._LOST) == {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
    }


def test_nodes_say_their_name_state_and_activation() -> None:
    node = NodeInfo(node_id=2, name="a", status=NodeStatus.ONLINE, last_activated_at="now")
    assert (node.name, node.status, node.last_activated_at) == ("a", "online", "now")


def test_the_relay_serves_seven_operations_and_flower_has_no_others_that_move_messages() -> None:
    """Of Flower's Fleet API are left out: registration, runs, apps, and leaving."""
    ours = {route.path.removeprefix("/v1/fleet/") for route in fleet.router.routes}  # type: ignore[attr-defined]
    assert ours == USED
    known = {path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")}
    assert {path.removeprefix("/v1/fleet/") for path in known} - USED == {
        "register-node",
        "unregister-node",
        "deactivate-node",
        "get-run",
        "get-fab",
    }
    assert flowers.router.prefix == fleet.PREFIX


@pytest.mark.parametrize("name", sorted(USED))
def test_handlers_take_what_they_are_given(name: str) -> None:
    function = getattr(fleet_handlers, name.replace("-", "_"))
    used = ["request", "state"]
    if name in ("pull-messages", "confirm-message-received"):
        used.append("store")
    assert list(inspect.signature(function).parameters) == used


def test_the_client_is_where_it_is_replaced() -> None:
    """``Membership`` puts a bounded HTTP client in its place."""
    source = inspect.getsource(ProtobufClient)
    assert len(re.findall(r"self\._client = httpx\.Client\(", source)) == 1


def test_no_module_of_the_engine_names_what_handles_apps() -> None:
    """Nothing here asks for a run or an app, loads one, or starts a process."""
    folder = Path(sealtune.federation.__file__).parent
    words = (
        "GetFab",
        "GetRun",
        "get_fab",
        "install_from_fab",
        "load_app",
        "object_ref",
        "ClientApp",
    )
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                used |= {alias.name for alias in node.names}
                used.add(getattr(node, "module", None) or "")
        assert not used & {*words, "subprocess", "importlib", "exec", "eval", "__import__"}, path


def message(frame: Frame) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(pack(frame), 2, "query.sealed")


def test_the_longest_frame_is_within_the_bounds() -> None:
    frame = Frame("put", {"pad": "x" * (MAX_META - 100)}, bytes(range(256)) * (PIECE // 256))
    parts = take_apart(message(frame))
    assert len(names(parts.tree)) == len(parts.contents) <= MAX_OBJECTS
    assert max(map(len, parts.contents.values())) <= MAX_OBJECT
    whole = put_together(parts.head.metadata.message_id, parts.contents)
    assert unpack(whole.content).body == frame.body
    assert list(parts.head.content) == []


def test_objects_that_are_not_a_message_are_refused() -> None:
    parts = take_apart(message(Frame("put", {}, b"abc")))
    identity = parts.head.metadata.message_id
    changed = {name: content + b"x" for name, content in parts.contents.items()}
    part = next(name for name in parts.contents if name != identity)
    for contents, top in (
        (changed, identity),
        ({identity: parts.contents[identity]}, identity),
        (parts.contents, part),
        (parts.contents, "0" * 64),
        ({**parts.contents, identity: bytes(MAX_OBJECT + 1)}, identity),
    ):
        with pytest.raises(FrameError):
            put_together(top, contents)


def test_an_array_that_lists_one_piece_many_times_is_refused() -> None:
    """A few bytes of indices would have the other end write one piece out without end."""
    parts = take_apart(message(Frame("put", {}, bytes(1000))))
    contents: dict[str, bytes] = {}
    renamed: dict[str, str] = {}
    for name, old in reversed(parts.contents.items()):  # what is listed comes before who lists it
        content = old
        for before, after in renamed.items():
            content = content.replace(before.encode(), after.encode())
        if content.startswith(b"Array "):
            head, body = content.split(b"\x00", 1)
            fields = json.loads(body)
            fields["arraychunk_ids"] *= 100_000
            body = json.dumps(fields).encode()
            content = head.rsplit(b" ", 1)[0] + b" %d\x00" % len(body) + body
        renamed[name] = get_object_id(content)
        contents[renamed[name]] = content
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="arrays of 100000 pieces"):
            put_together(renamed[parts.head.metadata.message_id], contents)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_tree_of_too_many_objects_is_refused() -> None:
    parts = take_apart(message(Frame("put", {}, b"abc")))
    for _ in range(MAX_OBJECTS):
        parts.tree.children.add(object_id="0" * 64)
    with pytest.raises(FrameError, match="more than"):
        names(parts.tree)


def test_a_node_imports_nothing_heavy() -> None:
    code = (
        "import sys, sealtune.federation.node\n"
        "ours = sorted(m for m in sys.modules if m.startswith('sealtune.'))\n"
        "print('torch' in sys.modules, ' '.join(ours))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    torch, *ours = printed.split()
    assert torch == "False"
    allowed = ("sealtune.errors", "sealtune.frames", "sealtune.sockets", "sealtune.federation")
    assert all(name.startswith(allowed) for name in ours)
