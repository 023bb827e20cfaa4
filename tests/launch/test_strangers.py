"""Another account on the machine, which knows where a run's processes listen, tries to run code."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.federation.hostile import ask, hostile_app, start_run
from tests.launch.test_run import Launch, Launched, fake_job, launched

__all__ = ["launched"]  # the fixture


def ports(one: Launched) -> set[int]:
    """Where processes of the run listen."""
    return {
        connection.laddr.port
        for process, _ in one.others()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
def test_nobody_who_knows_the_port_can_run_code(tmp_path: Path, launched: Launch) -> None:
    """An app that leaves a file where it runs, at the server and at the sites."""
    canaries = tmp_path / "canaries"
    canaries.mkdir()
    one = launched(fake_job(tmp_path, start=20.0))
    one.wait_for("ready", "accelerator")
    end = time.monotonic() + 12  # ample for SuperExecs: they asked for work twice a second
    asked: dict[int, int] = {}
    while time.monotonic() < end and len(list(canaries.iterdir())) < 2:
        for port in ports(one) - asked.keys():
            answer = ask(port, "/v1/control/start-run", start_run(hostile_app(canaries)))
            asked[port] = answer.status_code
        time.sleep(0.2)
    engine = [
        process
        for process, line in one.others()
        if any(f"start.py {program} " in line for program in ("relay", "node"))
    ]
    assert len(engine) == 3
    for process in engine:  # nothing of the user's, such as keys that clouds put there
        theirs = {"PYTHONUNBUFFERED", "LC_CTYPE"}  # Python gives itself the latter
        names = {name for name in process.environ() if not name.startswith("FLWR_")}
        assert names <= theirs
    assert list(canaries.iterdir()) == []
    assert list(asked.values()) == [404], "one process listens, and has no such operation"
    code, output = one.end()
    assert code == 0, output
