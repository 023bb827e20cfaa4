"""What sealtune assumes of Flower beyond its documentation, held against the installed version."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from flwr.app import Array
from flwr.common.config import validate_config
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import start_client_internal

from sealtune.federation import app_folder, flower_transport, haste


def test_the_pinned_version_is_installed() -> None:
    assert haste.known()


def test_error_codes() -> None:
    assert set(flower_transport._LOST) == {
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
        ErrorCode.CLIENT_APP_CRASHED,
    }


def test_nodes_say_their_name_state_and_activation() -> None:
    node = NodeInfo(node_id=2, name="a", status=NodeStatus.ONLINE, last_activated_at="now")
    assert (node.name, node.status, node.last_activated_at) == ("a", "online", "now")


def test_the_waits_that_are_shortened_are_where_they_were() -> None:
    source = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.(\w+)", source)) == {"sleep"}
    assert {float(s) for s in re.findall(r"time\.sleep\((.*?)\)", source)} == set(haste.NODE_WAITS)
    defaults = inspect.signature(inflatable_utils.pull_objects).parameters
    assert defaults["initial_backoff"].default == inflatable_utils.PULL_INITIAL_BACKOFF
    assert inflatable_utils.PULL_INITIAL_BACKOFF >= haste.PULL_BACKOFF


def test_waits_are_shortened_in_the_known_version_only(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    defaults = dict(inflatable_utils.pull_objects.__kwdefaults__)
    monkeypatch.setattr(inflatable_utils.pull_objects, "__kwdefaults__", defaults)
    monkeypatch.setattr(start_client_internal, "time", start_client_internal.time)
    monkeypatch.setattr(haste, "VERSION", "0.0.0")
    before = start_client_internal.time
    haste.hasten_supernode()
    assert start_client_internal.time is before
    assert inflatable_utils.pull_objects.__kwdefaults__["initial_backoff"] == 1

    monkeypatch.undo()
    monkeypatch.setattr(inflatable_utils.pull_objects, "__kwdefaults__", defaults)
    monkeypatch.setattr(start_client_internal, "time", start_client_internal.time)
    monkeypatch.setattr(haste.time, "sleep", slept.append)
    haste.hasten_supernode()
    for seconds in (3, 0.5, 7):
        start_client_internal.time.sleep(seconds)
    assert slept == [haste.NODE_WAITS[3], haste.NODE_WAITS[0.5], 7]
    assert inflatable_utils.pull_objects.__kwdefaults__["initial_backoff"] == haste.PULL_BACKOFF


def test_arrays_are_cut_by_flower() -> None:
    array = Array(dtype="uint8", shape=(12 << 20,), stype="sealed.bytes", data=bytes(12 << 20))
    assert len(list(array.slice_array())) == 3


def test_the_app_folder_is_valid_and_holds_no_code(tmp_path: Path) -> None:
    folder = app_folder.write(tmp_path / "app", Path("/tmp/x y/s"), None)
    config = tomllib.loads((folder / "pyproject.toml").read_text())
    valid, errors, warnings = validate_config(config, check_module=True, project_dir=folder)
    assert (valid, errors, warnings) == (True, [], [])
    assert config["tool"]["flwr"]["app"]["config"] == {"socket": "/tmp/x y/s", "events": ""}
    assert sorted(path.name for path in folder.rglob("*")) == ["README.md", "pyproject.toml"]


def test_the_glue_imports_nothing_heavy() -> None:
    """A ClientApp process is started for every message."""
    code = (
        "import sys, sealtune.federation.client_app\n"
        "ours = sorted(m for m in sys.modules if m.startswith('sealtune.'))\n"
        "print('torch' in sys.modules, ' '.join(ours))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    torch, *ours = printed.split()
    assert torch == "False"
    allowed = ("sealtune.errors", "sealtune.frames", "sealtune.federation")
    assert all(name.startswith(allowed) for name in ours)
