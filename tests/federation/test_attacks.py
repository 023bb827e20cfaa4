"""Nobody can have code run over the network engine: the attacks, really tried.

Each is tried on the two programs as a run starts them: by somebody who knows the relay's port, by a
site of the job, and by who operates the relay and puts what they like into Flower's state.
"""

from __future__ import annotations

import ssl
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.control_pb2 import RegisterNodeRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.main import create_app
from starlette.types import Receive, Scope, Send

from sealtune.errors import FrameError
from sealtune.federation import fleet, membership
from sealtune.federation.membership import Membership
from sealtune.federation.objects import take_apart
from sealtune.federation.payload import pack, unpack
from sealtune.frames import Frame
from tests.federation.enclaves import order
from tests.federation.engine import Engine, node_key
from tests.federation.hostile import ask, hostile_app, start_run

POISONED = str(Path(__file__).with_name("poisoned_relay.py"))


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def listening() -> Iterator[Engine]:
    """A relay for those who only ask it something."""
    engine = Engine()
    engine.relay()
    yield engine
    engine.close()


@pytest.fixture
def canaries(tmp_path: Path) -> Path:
    folder = tmp_path / "canaries"
    folder.mkdir()
    return folder


def backwards(frame: Frame) -> Frame:
    return Frame("reply", {}, bytes(frame.body)[::-1])


def check_that_it_works(engine: Engine, *sites: str) -> None:
    reports = engine.work([order(dict.fromkeys(sites, b"abc"))])
    assert sorted((f.kind, f.meta["site"], bytes(f.body)) for f in reports) == [
        ("reply", site, b"cba") for site in sorted(sites)
    ]


def test_who_knows_the_port_can_ask_for_nothing(engine: Engine, canaries: Path) -> None:
    """No submitting, starting, stopping, listing; no registering of nodes; no pulling of tasks."""
    engine.relay()
    engine.node("a", backwards)
    status = ask(engine.port, "/v1/control/start-run", start_run(hostile_app(canaries))).status_code
    assert status == 404
    for _, path in PROTOBUF_REQUEST_TYPES:
        answer = ask(engine.port, path, RegisterNodeRequest())
        expected = 401 if path in {r.path for r in fleet.router.routes} else 404  # type: ignore[attr-defined]
        assert (path, answer.status_code, answer.content) == (path, expected, b"")
    for path in ("/", "/docs", "/openapi.json", "/health", "/v1/fleet/../control/list-runs"):
        for method in ("GET", "POST", "OPTIONS"):
            url = f"https://{engine.address}{path}"
            answer = httpx.request(method, url, verify=False, trust_env=False)
            assert (path, answer.status_code, answer.content) == (path, 404, b"")
    check_that_it_works(engine, "a")
    assert list(canaries.iterdir()) == []


def test_a_site_of_the_job_can_move_messages_and_nothing_else(listening: Engine) -> None:
    key = node_key(listening.flower.credentials.nodes["a"])
    with Membership(listening.address, listening.authority, key) as member:
        client = member._client
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            client.RegisterNode(RegisterNodeFleetRequest(public_key=b"x"))
        for name in ("GetRun", "GetFab", "DeactivateNode", "UnregisterNode"):
            function = getattr(client, name)
            request = function.__annotations__["request"]()
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                function(request)
        for path, request in (
            ("/v1/control/register-node", RegisterNodeRequest(public_key=b"x")),
            ("/v1/control/list-nodes", RegisterNodeRequest()),
        ):
            with pytest.raises(httpx.HTTPStatusError, match="404"):
                client._unary_unary(
                    path=path, rpc_method="", request=request, response_type=ProtoMessage
                )
        # A reply in the name of another site.
        other = ProtoMessage()
        other.metadata.src_node_id = member._node.node_id + 1
        with pytest.raises(httpx.HTTPStatusError, match="403"):
            client.PushMessages(
                PushMessagesRequest(
                    node=member._node, messages_list=[other], message_object_trees=[ObjectTree()]
                )
            )
        # A question in the name of another site.
        member._node.CopyFrom(Node(node_id=member._node.node_id + 1))
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            member.receive()


def test_an_unknown_node_key_cannot_join(engine: Engine) -> None:
    engine.relay()
    stranger = engine.credentials("strange").nodes["a"]
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        Membership(engine.address, engine.authority, node_key(stranger))
    engine.flower.credentials.nodes["a"] = stranger
    node = engine.node("a", backwards)
    assert node.wait(60) == 1
    assert "does not know this site's node key" in engine.log()


def test_a_known_public_key_is_not_enough(listening: Engine) -> None:
    """The header of somebody else, and no signature, or one under another key."""
    ours = listening.flower.credentials.nodes["a"]
    public = load_ssh_public_key(Path(f"{ours}.pub").read_bytes())
    data = public_key_to_bytes(public)  # type: ignore[arg-type]
    request = ActivateNodeRequest(public_key=data, heartbeat_interval=30)
    headers = {FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(data).decode()}
    assert ask(listening.port, "/v1/fleet/activate-node", request, headers).status_code == 401


def test_who_is_not_the_relay_is_not_joined(listening: Engine) -> None:
    """The site's program trusts the run's authority only."""
    other = listening.credentials("other").certificate.read_text()
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        Membership(listening.address, other, node_key(listening.flower.credentials.nodes["a"]))


def test_requests_are_bounded(listening: Engine) -> None:
    key = node_key(listening.flower.credentials.nodes["a"])
    headers = {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode()
    }
    url = f"https://{listening.address}/v1/fleet/activate-node"
    context = ssl.create_default_context(cadata=listening.authority)
    with httpx.Client(verify=context, trust_env=False) as client:
        large = bytes(fleet.MAX_REQUEST + 1)
        assert client.post(url, content=large, headers=headers).status_code == 413
        endless = iter([b"x"])
        assert client.post(url, content=endless, headers=headers).status_code == 411


class Watched:
    """An application, and the paths that were asked for."""

    def __init__(self, app: object) -> None:
        self.app = app
        self.paths: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.add(scope["path"])
        await self.app(scope, receive, send)  # type: ignore[operator]


def test_a_hostile_relay_runs_nothing_at_a_site(engine: Engine, canaries: Path) -> None:
    """Flower's whole SuperLink, in its operator's hands: a run, its app, and messages of it."""
    app = create_app()
    watched = Watched(app)
    engine.serve(watched)
    state = app.state.linkstate_factory.state()
    path = Path(f"{engine.flower.credentials.nodes['a']}.pub")
    data = public_key_to_bytes(load_ssh_public_key(path.read_bytes()))  # type: ignore[arg-type]
    node = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, data, 0, name="a")
    fab = hostile_app(canaries)
    state.store_fab(fab)
    run = state.create_run(
        "stranger/hostile",
        "1.0.0",
        fab.hash_str,
        {},
        NOOP_FEDERATION_ID,
        None,
        NOOP_FLWR_AID,
        TaskType.SERVER_APP,
    )
    task = state.get_run_info(run_ids=[run])[0].primary_task_id
    assert state.claim_task(task)
    assert state.activate_task(task)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, task
    seen: list[bytes] = []

    def enclave(frame: Frame) -> Frame:
        seen.append(bytes(frame.body))
        return Frame("reply", {}, b"sealed")

    engine.node("a", enclave)
    contents = [
        RecordDict({"x": ConfigRecord({"code": "import os", "app": fab.content})}),
        RecordDict({"sealed": ArrayRecord()}),
        pack(Frame("run", {"exchange": "0" * 16, "code": "import os"}, fab.content)),
        pack(Frame("put", {"exchange": "../../../etc", "index": 0, "count": 1}, fab.content)),
        pack(Frame("put", {"exchange": "0" * 16, "index": 0, "count": 1}, b"forged")),
    ]
    kinds = ["train", "system", "query.sealed", "query.sealed", "query.sealed"]
    replies = [answered(engine, state, node, *each) for each in zip(contents, kinds, strict=True)]
    assert [frame.kind for frame in replies] == 4 * ["failed"] + ["reply"]
    assert seen == [b"forged"]  # what it opens, the enclave decides
    assert list(canaries.iterdir()) == []
    assert watched.paths <= {route.path for route in fleet.router.routes}  # type: ignore[attr-defined]


def answered(engine: Engine, state: object, node: int, content: RecordDict, kind: str) -> Frame:
    """A node's answer to a message that was put into Flower's state."""
    from sealtune.federation.link_grid import LinkGrid

    grid = object.__new__(LinkGrid)
    grid._state, grid._arriving = state, {}  # type: ignore[assignment]
    (grid.run,) = state.get_run_info(run_ids=[TaskIdentity.run_id])  # type: ignore[attr-defined]
    engine.until(lambda: node in state.get_nodes(grid.run.run_id))
    message = Message(content, node, kind, ttl=60.0)
    identity = grid.push(message)
    found: list[Message] = []

    def arrived() -> bool:
        found.extend(grid.pull({identity}))
        return bool(found)

    engine.until(arrived)
    return unpack(found[0].content)


def test_what_lies_in_flowers_state_is_not_run_at_the_server(
    engine: Engine, canaries: Path
) -> None:
    *_, config = engine.flower.relay(engine.folder / "work.sock").command
    engine.relay([sys.executable, POISONED, config, str(canaries)])
    engine.node("a", backwards)
    engine.node("b", backwards)
    check_that_it_works(engine, "a", "b")
    assert list(canaries.iterdir()) == []


@pytest.mark.parametrize("how", ["endless", "large", "redirect", "packed"])
def test_answers_of_a_hostile_relay_are_bounded(engine: Engine, how: str) -> None:
    asked: list[str] = []
    headers = {
        "endless": [],
        "large": [(b"content-length", b"%d" % (membership.MAX_RESPONSE + 1))],
        "redirect": [(b"content-length", b"0"), (b"location", b"/elsewhere")],
        "packed": [(b"content-length", b"10"), (b"content-encoding", b"gzip")],
    }[how]

    async def hostile(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        status = 307 if how == "redirect" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if how == "redirect" else b"0123456789"
        more = how in ("endless", "large")
        await send({"type": "http.response.body", "body": body, "more_body": more})

    engine.serve(hostile)
    key = node_key(engine.flower.credentials.nodes["a"])
    with pytest.raises(httpx.HTTPStatusError if how == "redirect" else FrameError):
        Membership(engine.address, engine.authority, key)
    assert asked == ["/v1/fleet/activate-node"]


def test_a_message_whose_parts_are_not_what_they_say(engine: Engine) -> None:
    """A site answers that it failed, and lives on."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    parts = take_apart(Message(pack(Frame("put", {}, b"x")), 2, "query.sealed"))
    tree = ObjectTree(object_id="0" * 64)
    member = object.__new__(Membership)
    with pytest.raises(FrameError, match="another's"):
        member.complete(parts.head, tree)
