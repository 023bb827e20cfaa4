"""What somebody else would have run at the server and at the sites: an app with canaries."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import NOOP_FLWR_AID
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab as FabProto
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from google.protobuf.message import Message as Proto

from sealtune.federation.link_grid import link_state

_PROJECT = b"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hostile"
version = "1.0.0"
description = "x"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "stranger"
[tool.flwr.app.components]
serverapp = "hostile.server:app"
clientapp = "hostile.client:app"
[tool.flwr.app.config]
"""
_SERVER = """\
import pathlib, time
pathlib.Path({canaries!r}, "server").write_text("ran")
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    for _ in range(20):
        for node in grid.get_node_ids():
            content = RecordDict({{"x": ConfigRecord({{"x": 1}})}})
            grid.push_messages([Message(content, node, "query.sealed")])
        time.sleep(1)
"""
_CLIENT = """\
import pathlib
pathlib.Path({canaries!r}, "site").write_text("ran")
from flwr.clientapp import ClientApp
app = ClientApp()
"""


def hostile_app(canaries: Path) -> Fab:
    """An app whose code writes a file into ``canaries`` wherever it is imported."""
    files: dict[str, bytes | Path] = {
        "pyproject.toml": _PROJECT,
        "README.md": b"x\n",
        "hostile/__init__.py": b"",
        "hostile/server.py": _SERVER.format(canaries=str(canaries)).encode(),
        "hostile/client.py": _CLIENT.format(canaries=str(canaries)).encode(),
    }
    with warnings.catch_warnings(action="ignore"):
        content, _ = build_fab_from_files(files)
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def poisoned(canaries: Path) -> InMemoryLinkState:
    """Flower's state with the hostile app, and runs of it, in it from the start."""
    state = link_state()
    fab = hostile_app(canaries)
    state.store_fab(fab)
    for kind in (TaskType.SERVER_APP, TaskType.CLIENT_APP, TaskType.AGENT_APP):
        state.create_run(
            "stranger/hostile",
            "1.0.0",
            fab.hash_str,
            {},
            NOOP_FEDERATION_ID,
            None,
            NOOP_FLWR_AID,
            kind,
        )
    return state


def start_run(fab: Fab) -> StartRunRequest:
    """What ``flwr run`` sends."""
    return StartRunRequest(fab=FabProto(hash_str=fab.hash_str, content=fab.content))


def ask(
    port: int, path: str, request: Proto, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """Ask as one who knows the port and nothing else: no certificate, no key, no secret."""
    return httpx.post(
        f"https://127.0.0.1:{port}{path}",
        content=request.SerializeToString(),
        headers={"content-type": "application/protobuf", **(headers or {})},
        verify=False,  # a stranger takes the certificate that is shown
        trust_env=False,
        timeout=10,
    )
