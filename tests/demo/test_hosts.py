"""Hosts on one machine: what they can reach, how fast, and what they see."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealtune.demo.hosts import Host, Hosts, missing
from sealtune.demo.hosts.capture import header, record
from sealtune.demo.hosts.link import Pipe
from sealtune.errors import FederationError

needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())
PYTHON = [sys.executable, "-I", "-S", "-c"]
SERVE = """
import socketserver

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)

with socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
# connects, then measures one byte there and back, then as often as is asked
ASK = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2]))
start = time.monotonic()
peer.sendall(b"?")
peer.recv(1)
print(time.monotonic() - start)
"""


def python(host: Host, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.run([*PYTHON, code, *arguments], timeout=60)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "public.txt").write_text("public")
    (folder / "pooled").mkdir()
    (folder / "pooled" / "rows.jsonl").write_text("rows")
    shared, hidden = [folder / "public.txt"], [folder / "pooled"]
    with Hosts(folder / "root", shared=shared, hidden=hidden) as made:
        made.add("near")
        made.add("far", delay_ms=25, mbit=20)
        made.add("server")
        serving = made["server"].start([*PYTHON, SERVE], stdout=subprocess.PIPE)
        assert serving.stdout is not None
        assert serving.stdout.readline() == b"ready\n"
        yield made


def test_a_pipe_keeps_to_its_rate_and_delay() -> None:
    pipe = Pipe(delay=0.025, rate=20e6, limit=250_000)
    arrivals: list[tuple[float, int]] = []
    for tick in range(3000):  # three seconds, offered ten times as much as fits
        now = tick / 1000
        arrivals += [(now, len(frame)) for frame in pipe.arrived(now)]
        for _ in range(17):
            pipe.offer(bytes(1500), now)
    assert arrivals[0][0] >= 0.025 + 1500 * 8 / 20e6
    bits = 8 * sum(size for when, size in arrivals if 1 <= when < 2)
    assert bits == pytest.approx(20e6, rel=0.001)


def test_a_full_queue_drops_and_an_empty_one_delays_only() -> None:
    pipe = Pipe(delay=0.5, rate=8e3, limit=3000)
    assert [pipe.offer(bytes(1000), 0.0) for _ in range(4)] == [True, True, True, False]
    assert pipe.due == pytest.approx(1.5)
    assert len(pipe.arrived(2.5)) == 2
    assert pipe.offer(b"\1", 10.0)
    assert pipe.due == pytest.approx(3.5)  # the third, still on its way
    assert len(pipe.arrived(11.0)) == 2
    assert pipe.due == float("inf")


def test_without_a_rate_nothing_waits() -> None:
    pipe = Pipe(delay=0.1, rate=0, limit=1)
    assert all(pipe.offer(bytes(1500), 1.0) for _ in range(1000))
    assert pipe.arrived(1.0999) == []
    assert len(pipe.arrived(1.1)) == 1000


def test_pcap_is_as_its_format_says() -> None:
    assert struct.unpack("<IHHiIII", header())[:3] == (0xA1B2C3D4, 2, 4)
    assert struct.unpack("<IIII", record(b"abc", 7.25)[:16]) == (7, 250000, 3, 3)


@needs_hosts
def test_a_delay_goes_both_ways(hosts: Hosts) -> None:
    server = hosts["server"].address
    assert float(python(hosts["far"], ASK, server, "10").stdout) >= 0.050
    assert float(python(hosts["near"], ASK, server, "10").stdout) > 0


@needs_hosts
def test_a_link_carries_no_more_than_its_rate(hosts: Hosts) -> None:
    send = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 7000))
start = time.monotonic()
peer.sendall(bytes(300_000))
left = 300_000
while left:
    left -= len(peer.recv(65536))
print(time.monotonic() - start)
"""
    before = hosts["far"].traffic()
    seconds = float(python(hosts["far"], send, hosts["server"].address).stdout)
    after = hosts["far"].traffic()
    assert 300_000 <= after.sent - before.sent < 400_000
    assert 300_000 <= after.received - before.received < 400_000
    assert seconds >= 300_000 * 8 / 20e6


@needs_hosts
def test_cut_is_cut_and_mended_goes_on(hosts: Hosts) -> None:
    wait = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 7000))
peer.sendall(b"1")
peer.recv(1)
print("there", flush=True)
sys.stdin = open("go")                  # a named pipe: until the link is cut
sys.stdin.read()
peer.sendall(b"2")
peer.settimeout(1)
try:
    print(peer.recv(1), flush=True)
except TimeoutError:
    print("nothing", flush=True)
peer.settimeout(60)
print(peer.recv(1), flush=True)
"""
    host = hosts["near"]
    os.mkfifo(host.folder / "go")
    process = host.start([*PYTHON, wait, hosts["server"].address], stdout=subprocess.PIPE)
    out = process.stdout
    assert out is not None
    assert out.readline() == b"there\n"
    host.cut()
    (host.folder / "go").write_text("go")
    assert out.readline() == b"nothing\n"
    assert python(host, ASK, hosts["server"].address, "0.5").returncode != 0
    assert python(hosts["far"], ASK, hosts["server"].address, "10").returncode == 0
    host.mend()
    assert out.readline() == b"b'2'\n"  # the same connection goes on
    assert process.wait(10) == 0


@needs_hosts
def test_a_host_sees_its_own_files_and_no_others(hosts: Hosts) -> None:
    for host in hosts:
        (host.folder / "own.txt").write_text(host.name)
    walk = """
import json, os, sys
root, public, pooled = sys.argv[1:]
found = sorted(os.path.join(at, f) for at, _, files in os.walk(root) for f in files)
try:
    open(public, "a")
    writable = True
except OSError:
    writable = False
print(json.dumps({
    "found": found, "temporary": os.listdir("/tmp"), "public": open(public).read(),
    "writable": writable, "pooled": os.path.exists(pooled) and os.listdir(pooled),
    "home": os.path.expanduser("~"), "name": os.uname().nodename,
    "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit())}))
"""
    folder, host = hosts.root.parent, hosts["near"]
    done = python(host, walk, str(hosts.root), str(folder / "public.txt"), str(folder / "pooled"))
    seen = json.loads(done.stdout)
    assert {Path(path).relative_to(hosts.root).parts[0] for path in seen["found"]} == {"near"}
    assert str(host.folder / "own.txt") in seen["found"]
    mounted = [path for path in (hosts.root, *hosts.shared) if path.is_relative_to("/tmp")]
    assert set(seen["temporary"]) <= {path.relative_to("/tmp").parts[0] for path in mounted}
    assert seen["public"] == "public"
    assert not seen["writable"]
    assert not seen["pooled"]
    assert seen["home"] == str(host.folder / ".host" / "home")
    assert seen["name"] == "near"
    assert seen["processes"] == [1, 2]


@needs_hosts
def test_nothing_inside_takes_the_mounts_away(hosts: Hosts) -> None:
    done = hosts["near"].run(["umount", str(hosts.root)])
    assert done.returncode != 0
    assert hosts["near"].run(["unshare", "--mount", "true"]).returncode != 0


@needs_hosts
def test_exit_codes_and_signals_are_the_commands(hosts: Hosts) -> None:
    host = hosts["near"]
    assert host.run(["sh", "-c", "exit 7"]).returncode == 7
    assert host.run(["sh", "-c", "kill -9 $$"]).returncode == 137
    assert host.run(["no-such-program"]).returncode == 127
    waits = host.start(["sh", "-c", "trap 'exit 5' TERM; echo ready; sleep 60 & wait"], stdout=-1)
    assert waits.stdout is not None
    assert waits.stdout.readline() == b"ready\n"
    waits.send_signal(signal.SIGTERM)
    assert waits.wait(30) == 5


@needs_hosts
def test_what_a_host_sends_is_captured_whole(hosts: Hosts, tmp_path: Path) -> None:
    with hosts["server"].capture(tmp_path / "wire.pcap"):
        say = """
import socket, sys
peer = socket.create_connection((sys.argv[1], 7000))
peer.sendall(b"needle in a haystack")
peer.recv(65536)
"""
        assert python(hosts["near"], say, hosts["server"].address).returncode == 0
    captured = (tmp_path / "wire.pcap").read_bytes()
    assert captured.count(b"needle in a haystack") == 2


@needs_hosts
def test_nothing_is_left_when_the_maker_is_killed(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
from pathlib import Path
from sealtune.demo.hosts import Hosts
with Hosts(Path(sys.argv[1])) as hosts:
    far = hosts.add("far", delay_ms=1)
    far.start(["sh", "-c", "echo started; exec sleep 600"])
    time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"started\n"
        started = [*_children(maker.pid)]
        assert len(started) >= 4  # switch, host, link, command
        maker.kill()
    for _ in range(600):
        left = [pid for pid in started if Path(f"/proc/{pid}").exists()]
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"left running: {left}")


def _children(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from _children(int(child))


def test_without_root_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(FederationError, match="need root"), Hosts(Path("never-made")):
        pass
    assert not Path("never-made").exists()


def test_without_ip_it_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "iproute2" in missing()
