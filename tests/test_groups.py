"""Tests that belong together run in one process, whatever versions of pytest's parts are here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOOKS = ("pytest_collection_modifyitems", "pytest_xdist_make_scheduler")
TEST = """\
import os
import pytest

@pytest.mark.parametrize("number", range(8))
def test_it(number: int) -> None:
    with open("ran", "a") as file:
        file.write(__name__ + " " + os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


def test_a_room_and_a_file_stay_with_one_worker(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "conftest.py").write_text("from tests.conftest import " + ", ".join(HOOKS))
    for place in ("deploy/test_a", "deploy/test_b", "a/test_c", "a/test_d", "deploy/test_guide"):
        file = tmp_path / "tests" / f"{place}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TEST)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n2",
        "--dist=loadscope",
        "-pno:cacheprovider",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    workers = defaultdict(set)
    ran = (tmp_path / "ran").read_text().splitlines()
    for name, worker in map(str.split, ran):
        workers[name].add(worker)
    assert len(ran) == 40
    assert all(len(found) == 1 for found in workers.values())
    assert workers["test_a"] == workers["test_b"] != workers["test_guide"]
    begun = {worker: name for name, worker in map(str.split, reversed(ran))}
    assert set(begun.values()) == {"test_a", "test_guide"}  # before the shorter room
