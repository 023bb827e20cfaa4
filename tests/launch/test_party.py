"""One command a party: real relay, link and nodes, fake enclaves, each in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant
from sealtune.job.network import NetworkIdentity
from sealtune.job.network_keys import new_certificate, new_node_key
from sealtune.job.proposal import sign, wrap
from sealtune.job.spec import Job
from sealtune.launch.ports import free_port
from tests.job.sample import DATA, JOB, KEYS, make_manifest

DRIVE = Path(__file__).with_name("drive_party.py")
SITES = ("a", "b")
_ENCLAVE, _NETWORK, _SHARED = 23456, 23457, 23458  # two users and their group


class Party:
    """A party's command in a process of its own; its events as they come."""

    def __init__(self, local: Path, *part: str, **account: Any) -> None:
        self.folder = local.parent
        with (self.folder / "stderr").open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVE), str(local), *part],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                **account,
            )
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.events.append(json.loads(line))

    def wait_for(self, event: str, role: str = "", count: int = 1) -> dict[str, Any]:
        """Wait until ``role`` has said ``event`` so often."""
        found: list[dict[str, Any]] = []

        def said() -> bool:
            found[:] = [e for e in self.events if e["event"] == event and role in ("", e["role"])]
            return len(found) >= count

        until(lambda: said() or self.process.poll() is not None, f"{event} of {role}")
        assert said(), self.said()
        return found[count - 1]

    def end(self) -> int:
        """Its exit code, when it has ended."""
        code = self.process.wait(120)
        self._thread.join(10)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join(10)
        if self.process.stdout:
            self.process.stdout.close()

    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    def child(self, words: str) -> psutil.Process:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if words in " ".join(process.cmdline()):
                return process
        raise AssertionError(f"no process with {words!r}")


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.05)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Hosts:
    """A job of five parties, each with a folder of its own on one machine."""

    def __init__(self, folder: Path, **fake: Any) -> None:
        self.folder = folder
        self.started: list[Party] = []
        self.ports = free_port(), free_port()
        tls, certificate = new_certificate("coordinator", ("127.0.0.1",), _days(40))
        link, server_certificate = new_certificate("server", (), _days(40))
        nodes = {site: new_node_key() for site in SITES}
        network = NetworkIdentity(
            sites_at=f"127.0.0.1:{self.ports[0]}",
            server_at=f"127.0.0.1:{self.ports[1]}",
            certificate=certificate,
            server_certificate=server_certificate,
            nodes={site: public for site, (_, public) in nodes.items()},
        )
        content = JOB.model_dump(mode="json")
        content["job"] = {"name": "fake", "seed": 1, "rounds": fake.get("rounds", 2)}
        content["sites"]["names"] = SITES
        key = public_hex(KEYS["clinic"].public_key())
        manifest = make_manifest(
            settings=Job.model_validate(content).settings,
            data=dict.fromkeys(SITES, DATA),
            participants=(Participant(org="clinic", key=key, sites=SITES),),
            network=network,
        )
        self.envelope = sign(wrap(manifest), KEYS["clinic"])
        told = {"sites": SITES, "rounds": 2, "payload": 1000, "deadline": 60.0, "work": 0.1}
        self.fake = told | fake
        keys = {"coordinator": tls, "server": link, **{s: nodes[s][0] for s in SITES}}
        accelerator = f"unix:{self.folder}/gpu/gpu.sock"
        at = [f"tcp:127.0.0.1:{port}" for port in self.ports]
        for name in ("coordinator", "server", *SITES, "gpu"):
            own: dict[str, str] = {"listen": f"unix:{name}.sock"}
            role = {"gpu": "accelerator"}.get(name, "site" if name in SITES else name)
            if role == "coordinator":
                own = {"listen": at[0], "listen_server": at[1]}
            if role == "server":
                own["listen"] = "server.sock"
            if role == "site":
                own |= {"listen": f"{name}.sock", "site": name, "accelerator": accelerator}
            if name in keys:
                own["node_key" if role == "site" else "tls_key"] = "net.key"
            self.write(name, {"role": role, "manifest": "job.manifest.json", "folder": "out"} | own)
            if name in keys:
                self.key(name, keys[name])

    def write(self, name: str, keys: dict[str, str]) -> None:
        place = self.folder / name
        place.mkdir()
        (place / "job.manifest.json").write_bytes(self.envelope.encode())
        (place / "fake.json").write_text(json.dumps(self.fake))
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        (place / "local.toml").write_text("".join(lines))

    def key(self, name: str, secret: bytes) -> None:
        path = self.folder / name / "net.key"
        path.write_bytes(secret)
        path.chmod(0o600)

    def start(self, *names: str, part: str = "", **account: Any) -> list[Party]:
        parts = [part] if part else []
        found = [Party(self.folder / name / "local.toml", *parts, **account) for name in names]
        self.started += found
        return found

    def close(self) -> None:
        for one in self.started:
            one.close()


def _days(count: int) -> Any:
    from datetime import timedelta

    return timedelta(days=count)


Make = Callable[..., Hosts]


@pytest.fixture
def hosts() -> Iterator[Make]:
    made: list[Hosts] = []
    import tempfile

    with tempfile.TemporaryDirectory(prefix="st") as short:  # a socket's path may have 107 bytes

        def make(**fake: Any) -> Hosts:
            made.append(Hosts(Path(short), **fake))
            return made[-1]

        yield make
        for one in made:
            one.close()


EVERYBODY = ("coordinator", "gpu", "server", *SITES)


def test_a_job_of_five_commands(hosts: Make) -> None:
    job = hosts()
    coordinator, gpu, server, a, b = job.start(*EVERYBODY)
    assert [one.end() for one in (server, coordinator, a, b)] == [0, 0, 0, 0], server.said()
    roles = ("coordinator", "accelerator", "server", "site", "site")
    for role, one in zip(roles, (coordinator, gpu, server, a, b), strict=True):
        assert (one.events[0]["event"], one.events[0]["role"]) == ("ready", role)
        kept = (one.folder / "out" / "metrics.jsonl").read_text().splitlines()
        assert kept == [json.dumps(e, separators=(",", ":")) for e in one.events[1 : 1 + len(kept)]]
    gpu.process.send_signal(signal.SIGTERM)
    assert gpu.end() == 128 + signal.SIGTERM  # the command makes 0 of it
    start = server.wait_for("start", "launcher")
    assert (start["party"], start["seed"], len(start["job_id"])) == ("server", 1, 96)
    assert [e["round"] for e in server.events if e["event"] == "round"] == [0, 1, 2]
    assert {e["site"] for e in coordinator.events if e["event"] == "transfer"} == set(SITES)
    assert not [e for e in server.events if e["event"] in ("transfer", "phase", "step")]
    assert {e["role"] for e in a.events if e["event"] == "step"} == {"client:a"}
    for one in (server, coordinator, a):
        assert one.events[-1]["outcome"] == "ok"
    # once more: what is done is not begun again
    again = job.start("server", "a")
    assert [one.end() for one in again] == [0, 0]
    assert [[e["event"] for e in one.events] for one in again] == [["end"], ["end"]]
    assert "done here already" in again[0].said()


@pytest.mark.slow
def test_a_killed_server_enclave_goes_on(hosts: Make) -> None:
    job = hosts(crash=1)
    coordinator, _, server, *sites = job.start(*EVERYBODY)
    assert [one.end() for one in (server, coordinator, *sites)] == [0, 0, 0, 0], server.said()
    assert [e["round"] for e in server.events if e["event"] == "round"] == [0, 1, 2]
    (restart,) = [e for e in server.events if e["event"] == "network" and "attempt" in e]
    assert "server ended (code -9), starting it again" in restart["state"]


@pytest.mark.slow
def test_killed_commands_go_on_when_started_anew(hosts: Make) -> None:
    """As systemd starts them; what each had started is gone with it."""
    job = hosts(work=1.0, rounds=4)
    parties = dict(zip(EVERYBODY, job.start(*EVERYBODY), strict=True))
    kept = job.folder / "server" / "out" / "metrics.jsonl"

    def rounds() -> list[int]:
        lines = kept.read_text().splitlines() if kept.exists() else []
        return [e["round"] for e in map(json.loads, lines) if e["event"] == "round"]

    for number, victim in enumerate(("a", "server", "coordinator")):
        until(lambda number=number: number in rounds(), f"round {number}")  # type: ignore[misc]
        child = parties[victim].child("fake" if victim in SITES else "start.py")
        parties[victim].process.kill()
        until(lambda child=child: gone(child), "its children's end")  # type: ignore[misc]
        (parties[victim],) = job.start(victim)
    for name in ("server", "coordinator", *SITES):
        assert parties[name].end() == 0, parties[name].said()
    assert rounds() == [0, 1, 2, 3, 4]


def test_the_network_gets_four_variables_and_the_stop_leaves_nothing(hosts: Make) -> None:
    job = hosts()
    gpu, coordinator = job.start("gpu", "coordinator")
    for one in (gpu, coordinator):
        one.wait_for("ready")
        child = psutil.Process(one.process.pid).children(recursive=True)
        if one is coordinator:  # nothing of the user's, such as keys that clouds put there
            names = {name for name in one.child("start.py").environ() if name != "LC_CTYPE"}
            assert names == {
                "PYTHONUNBUFFERED", "FLWR_HOME", "FLWR_TELEMETRY_ENABLED",
                "FLWR_DISABLE_UPDATE_CHECK",
            }  # fmt: skip
        one.process.send_signal(signal.SIGTERM)
        assert one.end() == 128 + signal.SIGTERM, one.said()
        assert one.events[-1]["outcome"] == "interrupted"
        assert not [p for p in child if p.is_running() and p.status() != "zombie"]


def test_nobody_has_to_listen(hosts: Make) -> None:
    """As with ``sealtune coordinator ... | head -1``."""
    job = hosts()
    place = job.folder / "coordinator"
    with (place / "stderr").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, str(DRIVE), str(place / "local.toml")],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert process.stdout
    assert '"ready"' in process.stdout.readline()
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM, (place / "stderr").read_text()
    kept = (place / "out" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(kept[-1])["outcome"] == "interrupted"


def test_a_second_signal_does_not_wait(hosts: Make) -> None:
    """An accelerator that does not end when it is asked to, and one signal more than that."""
    job = hosts(stubborn="accelerator")
    (gpu,) = job.start("gpu")
    gpu.wait_for("ready")
    child = gpu.child("fake_enclave.py")
    gpu.process.send_signal(signal.SIGTERM)
    until(lambda: "stopping everything" in gpu.said(), "the first signal")
    assert child.is_running()
    gpu.process.send_signal(signal.SIGTERM)
    assert gpu.end() == 128 + signal.SIGTERM
    assert not child.is_running()


def test_who_is_refused_does_not_try_again(hosts: Make) -> None:
    """Each of them says why, with the code of its error; nothing loops."""
    job = hosts(refuse="server")
    (server,) = job.start("server")
    assert server.end() == 10
    assert "DigestMismatchError: server: other code" in server.said()
    errors = [e for e in server.events if e["event"] == "error"]
    assert {e["role"] for e in errors} == {"server", "launcher"}
    assert not [e for e in server.events if "attempt" in e]


def test_a_key_that_the_manifest_does_not_name(hosts: Make) -> None:
    job = hosts()
    secret, _ = new_certificate("coordinator", ("127.0.0.1",), _days(40))
    job.key("coordinator", secret)
    job.key("a", new_node_key()[0])
    for name in ("coordinator", "a"):
        (one,) = job.start(name)
        assert one.end() == 10, one.said()
        assert "UnknownKeyError" in one.said()
        assert one.events[-1]["outcome"] == "failed"


@pytest.mark.slow
def test_a_node_that_the_coordinator_does_not_know(hosts: Make, tmp_path: Path) -> None:
    """The coordinator runs another job under the same certificate and address."""
    job = hosts()
    place = job.folder / "coordinator"
    other = job.envelope
    content = json.loads(other.payload)
    content["network"]["nodes"]["a"] = new_node_key()[1]
    import rfc8785

    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import PAYLOAD_TYPE

    changed = sign(Envelope(PAYLOAD_TYPE, rfc8785.dumps(content)), KEYS["clinic"])
    (place / "job.manifest.json").write_bytes(changed.encode())
    coordinator, _, a = job.start("coordinator", "gpu", "a")
    coordinator.wait_for("ready")
    assert a.end() == 10, a.said()
    assert "does not know this site's node key" in a.said()


def _others_can_start() -> bool:
    try:
        done = subprocess.run(
            [sys.executable, str(DRIVE)], user=_NETWORK, check=False, capture_output=True
        )
    except PermissionError:
        return False
    return b"not enough values to unpack" in done.stderr  # it came to look for its arguments


@pytest.mark.slow
def test_both_halves_of_a_party(hosts: Make) -> None:
    """The network's half reaches the socket, and neither the folder nor what is in it."""
    own_accounts = _others_can_start()  # as root, with a Python that they reach
    job = hosts()
    place = job.folder / "server"
    enclave_as: dict[str, Any] = {}
    network_as: dict[str, Any] = {}
    if own_accounts:
        enclave_as = {"user": _ENCLAVE, "group": _SHARED, "extra_groups": []}
        network_as = {"user": _NETWORK, "group": _SHARED, "extra_groups": []}
        job.folder.chmod(0o711)
        for folder, owner, mode in (
            (place, _ENCLAVE, 0o750),
            (place / "out", _ENCLAVE, 0o710),
            (place / "out" / "network", _NETWORK, 0o700),
        ):
            folder.mkdir(exist_ok=True)
            os.chown(folder, owner, _SHARED)
            folder.chmod(mode)
        os.chown(place / "net.key", _NETWORK, _SHARED)
    coordinator, _, a, b = job.start("coordinator", "gpu", *SITES)
    (enclave,) = job.start("server", part="enclave", **enclave_as)
    enclave.wait_for("ready", "server")
    assert os.stat(place / "server.sock").st_mode & 0o777 == 0o660
    (link,) = job.start("server", part="network", **network_as)
    link.wait_for("network", "flower")
    if own_accounts:
        look = ["cat", str(place / "out" / "fake-local.json"), str(place / "out" / "metrics.jsonl")]
        seen = subprocess.run(look, check=False, capture_output=True, **network_as)
        assert (seen.stdout, seen.returncode) == (b"", 1), "nothing of the other half can be read"
    assert enclave.end() == 0, enclave.said()
    assert [one.end() for one in (coordinator, a, b)] == [0, 0, 0]
    assert (place / "out" / "network" / "metrics.jsonl").is_file()
    link.process.send_signal(signal.SIGTERM)
    link.end()


def test_a_folder_of_another_job_is_left_alone(hosts: Make) -> None:
    job = hosts()
    out = job.folder / "coordinator" / "out"
    out.mkdir()
    other = sign(wrap(make_manifest()), KEYS["clinic"])
    (out / "job.manifest.json").write_bytes(other.encode())
    (one,) = job.start("coordinator")
    assert one.end() == 9
    assert "holds another job" in one.said()
