"""Whole runs through real Flower, with fake enclaves: the way there and back, and every way out."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sealtune.errors import PortInUseError, StorageError
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant
from sealtune.job.proposal import wrap
from sealtune.job.spec import Job
from sealtune.launch import run
from sealtune.launch.parties import MANIFEST
from tests.job.sample import DATA, JOB, KEYS, make_manifest
from tests.launch.drive import command, parties

DRIVE = Path(__file__).with_name("drive.py")
MIB = 1 << 20


def fake_job(folder: Path, sites: tuple[str, ...] = ("a", "b"), **fake: Any) -> Path:
    """A folder with the manifest of a job, and what fake enclaves are to do."""
    defaults = {"sites": sites, "rounds": 1, "payload": 1000, "deadline": 60.0, "work": 0.1}
    content = JOB.model_dump(mode="json")
    content["job"] = {"name": "fake", "seed": 1, "rounds": max(1, fake.get("rounds", 1))}
    content["sites"]["names"] = sites
    key = public_hex(KEYS["clinic"].public_key())
    manifest = make_manifest(
        settings=Job.model_validate(content).settings,
        data=dict.fromkeys(sites, DATA),
        participants=(Participant(org="clinic", key=key, sites=sites),),
    )
    (folder / MANIFEST).write_bytes(wrap(manifest).encode())
    (folder / "fake.json").write_text(json.dumps(defaults | fake))
    return folder


class Launched:
    """A launcher in a process and a temporary folder of its own, as a user would start it."""

    def __init__(self, folder: Path, job: Path) -> None:
        self.run_dir = folder / "run"
        # A socket's path may have 107 bytes, and pytest's folders are long.
        self.temp = Path(f"/tmp/st{os.getpid()}-{time.monotonic_ns()}")
        self.temp.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVE), str(job), str(self.run_dir)],
            env={**os.environ, "TMPDIR": str(self.temp)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def events(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says so far."""
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def wait_for(self, event: str, role: str) -> None:
        """Wait until ``role`` has said ``event``."""
        self._until(
            lambda: any((e["event"], e["role"]) == (event, role) for e in self.events()),
            f"{event} of {role}",
        )

    def pid(self, words: str) -> int:
        """The process of this run whose command line has ``words``."""
        for process, line in self.others():
            if words in line:
                return process.pid
        raise AssertionError(f"no process with {words!r}")

    def others(self) -> list[tuple[psutil.Process, str]]:
        """All living processes that belong to this run, but for the launcher."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if process.pid != self.process.pid and str(self.temp) in line:
                found.append((process, line))
        return found

    def end(self) -> tuple[int, str]:
        """Exit code and output, when it has ended and left nothing behind."""
        output, _ = self.process.communicate(timeout=120)
        self._until(lambda: not self.others(), "the end of every process")
        assert list(self.temp.iterdir()) == [], "no temporary folder is left"
        return self.process.returncode, output

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for path in self.temp.glob("*"):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        self.temp.rmdir()

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, f"waited for {what}"
            time.sleep(0.05)


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Callable[[Path], Launched]]:
    made: list[Launched] = []

    def launch(job: Path) -> Launched:
        made.append(Launched(tmp_path, job))
        return made[-1]

    yield launch
    for one in made:
        one.close()


Launch = Callable[[Path], Launched]


@pytest.mark.slow
def test_three_rounds_with_two_sites(tmp_path: Path, launched: Launch) -> None:
    """Fake enclaves compare every byte that arrives with the bytes that were sent."""
    one = launched(fake_job(tmp_path, rounds=3, payload=3 * MIB))
    code, output = one.end()
    assert code == 0, output
    events = one.events()
    rounds = [e for e in events if e["event"] == "round"]
    assert [e["round"] for e in rounds] == [0, 1, 2, 3]
    assert all(s["outcome"] == "ok" for e in rounds for s in e["sites"].values())
    transfers = [e for e in events if e["event"] == "transfer"]
    assert [(e["role"], e["outcome"], e["attempts"]) for e in transfers] == 8 * [
        ("flower", "reply", 1)
    ]
    assert (events[0]["event"], events[0]["role"]) == ("start", "launcher")
    assert (events[-1]["event"], events[-1]["outcome"]) == ("end", "ok")
    assert {e["role"] for e in events if e["event"] == "memory"} >= {"server", "flower"}
    assert "round 3 of 3: 2 of 2 sites" in output
    assert sorted(p.name for p in one.run_dir.iterdir()) == ["logs", "metrics.jsonl"]
    assert "fake site of a here" in (one.run_dir / "logs" / "client-a.log").read_text()
    made = [path for path in one.run_dir.rglob("*") if path != one.run_dir]
    assert {path.stat().st_mode & 0o077 for path in made} == {0}


@pytest.mark.slow
def test_forty_mebibytes_each_way(tmp_path: Path, launched: Launch) -> None:
    """More than one piece in both directions, through real Flower."""
    one = launched(fake_job(tmp_path, rounds=0, payload=40 * MIB))
    code, output = one.end()
    assert code == 0, output
    transfers = [e for e in one.events() if e["event"] == "transfer"]
    assert [(e["bytes_down"], e["bytes_up"]) for e in transfers] == 2 * [(40 * MIB, 40 * MIB)]


@pytest.mark.slow
def test_a_killed_accelerator(tmp_path: Path, launched: Launch) -> None:
    one = launched(fake_job(tmp_path, work=60.0))
    one.wait_for("phase", "client:a")
    os.kill(one.pid("fake_enclave.py accelerator"), signal.SIGKILL)
    code, output = one.end()
    assert code == 8
    assert "ProcessDiedError: accelerator was killed by SIGKILL (signal 9)" in output
    assert "accelerator.log" in output
    assert "fake accelerator of None here" in output
    assert one.events()[-1]["outcome"] == "failed"


@pytest.mark.slow
def test_an_interrupt_leaves_nothing(tmp_path: Path, launched: Launch) -> None:
    one = launched(fake_job(tmp_path, work=60.0))
    one.wait_for("phase", "client:a")
    one.process.send_signal(signal.SIGINT)
    code, output = one.end()
    assert code == 130, output
    assert one.events()[-1]["outcome"] == "interrupted"


def test_an_interrupt_at_the_start_leaves_nothing(tmp_path: Path, launched: Launch) -> None:
    one = launched(fake_job(tmp_path, start=60.0))
    one.wait_for("ready", "accelerator")
    one.process.send_signal(signal.SIGTERM)
    code, _ = one.end()
    assert code == 128 + signal.SIGTERM
    assert one.events()[-1]["outcome"] == "interrupted"


@pytest.mark.slow
def test_a_killed_node_comes_back_and_a_stuck_one_is_absent(
    tmp_path: Path, launched: Launch
) -> None:
    one = launched(fake_job(tmp_path, rounds=0, work=3.0, deadline=20.0))
    one.wait_for("phase", "client:a")
    one.wait_for("phase", "client:b")
    os.kill(one.pid("node-a.json"), signal.SIGKILL)
    os.kill(one.pid("node-b.json"), signal.SIGSTOP)
    code, output = one.end()
    assert code == 0, output
    transfers = {e["site"]: e for e in one.events() if e["event"] == "transfer"}
    assert (transfers["a"]["outcome"], transfers["a"]["attempts"]) == ("reply", 2)
    reason = "no answer before its deadline of 20 s"
    assert (transfers["b"]["outcome"], transfers["b"]["reason"]) == ("absent", reason)
    (last,) = [e for e in one.events() if e["event"] == "round"]
    assert last["sites"]["a"]["outcome"] == "ok"
    assert last["sites"]["b"]["reason"] == reason
    assert "node:a ended (code -9), starting it again" in output
    assert f"b is absent: {reason}" in output


@pytest.mark.slow
def test_a_killed_relay_ends_the_run_and_names_itself(tmp_path: Path, launched: Launch) -> None:
    one = launched(fake_job(tmp_path, work=60.0))
    one.wait_for("phase", "client:a")
    os.kill(one.pid("relay.json"), signal.SIGKILL)
    code, output = one.end()
    assert code == 8
    assert "flower:relay was killed by SIGKILL" in output


def test_an_enclave_that_is_killed_names_itself(tmp_path: Path, launched: Launch) -> None:
    one = launched(fake_job(tmp_path, start=60.0))
    one.wait_for("ready", "accelerator")
    os.kill(one.pid("site-b.json"), signal.SIGKILL)
    code, output = one.end()
    assert code == 8
    assert "client:b was killed by SIGKILL" in output


def test_a_port_in_use_leaves_no_trace(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(PortInUseError, match=str(port)):
            run(parties(fake_job(tmp_path), tmp_path / "run"), port=port, command=command)
    assert not (tmp_path / "run").exists()


def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="disk is full"):
        run(parties(fake_job(tmp_path), tmp_path / "run"), command=command)


def test_the_run_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(StorageError, match="could not write"):
        run(parties(fake_job(tmp_path), tmp_path / "run"), command=command)
