"""The hosts, the switch between them, and their links.

Nothing has a name in the system: namespaces live as long as the processes that hold them, and
these as long as a pipe of this process. So nothing is left over, however it ends.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import sealtune
from sealtune.errors import FederationError

NETWORK = "10.83.0"  # /24; no route leads out of it
_FIRST = 11  # last number of the first host's address
_DEVICE, _BRIDGE = "eth0", "br0"
_QUEUE = 0.1  # seconds that a paced link's queue holds
_MIN_QUEUE = 64 << 10  # bytes
# what a host's process gets of our variables
_PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
           "OPENBLAS_NUM_THREADS")  # fmt: skip
_STATE = (".cache", ".config", ".local/share", ".local/state")  # of our home, which no host sees
_PROGRAMS = (sys.prefix, sys.base_prefix, sealtune.__path__[0])  # what all hosts have installed
_Stream = IO[Any] | int | None


@dataclass(frozen=True)
class Traffic:
    """What a host's device has carried so far, in bytes of frames."""

    sent: int
    received: int


@dataclass
class Host:
    """A machine, as far as its processes can tell.

    Attributes:
        name: of the host.
        address: IPv4.
        folder: the only one of the hosts' folders that its processes see, under the same path. In
            it ``.host/home`` and ``.host/tmp`` are its home folder and its ``/tmp``.
    """

    name: str
    address: str
    folder: Path
    _hosts: Hosts
    _holder: int  # process that holds the network namespace
    _port: str  # its device at the switch
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: _Stream = None,
        stderr: _Stream = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command on the host. Its signals and exit code are the command's own.

        Killing it kills everything that it started, as when the power fails.

        Args:
            command: program and arguments.
            env: variables on top of the few that a host has.
            cwd: default: the host's folder.
        """
        settings = {
            "network": _namespace(self._holder),
            "name": self.name,
            "root": str(self._hosts.root),
            "folder": str(self.folder),
            "temporary": str(self.folder / ".host" / "tmp"),
            "shared": [str(path) for path in self._hosts.shared],
            "hidden": [str(path) for path in self._hosts.hidden],
            "cwd": str(cwd or self.folder),
            "command": [str(part) for part in command],
            "lifeline": self._hosts.lifeline,
        }
        variables = {name: os.environ[name] for name in _PASSED if name in os.environ}
        variables |= {"HOME": str(self.folder / ".host" / "home"), **(env or {})}
        process = subprocess.Popen(
            [*_module("inside"), json.dumps(settings)],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(self._hosts.lifeline,),
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; what it prints is in the result."""
        process = self.start(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        said = (out.decode(errors="replace"), err.decode(errors="replace"))
        return subprocess.CompletedProcess(list(command), process.returncode, *said)

    def cut(self) -> None:
        """Lose every frame from and to the host from here on; its own device stays up."""
        self._hosts.at_switch(f"link set {self._port} nomaster")

    def mend(self) -> None:
        """Carry frames again."""
        self._hosts.at_switch(f"link set {self._port} master {_BRIDGE}")

    def traffic(self) -> Traffic:
        """Count what the host has sent and received."""
        found = json.loads(_ip(self._holder, "-j", "-s", "link", "show", _DEVICE))[0]["stats64"]
        return Traffic(sent=found["tx"]["bytes"], received=found["rx"]["bytes"])

    @contextlib.contextmanager
    def capture(self, path: Path) -> Iterator[None]:
        """Write every frame of the host's device to a pcap file.

        Raises:
            FederationError: the kernel dropped some, so that the file is not everything.
        """
        command = [*_module("capture"), _namespace(self._holder), _DEVICE, str(path)]
        with _helper(command, "ready") as process:
            yield
            dropped = process.communicate(b"")[0].strip()
        if dropped != b"0":
            raise FederationError(f"the capture {path} is not whole: {dropped.decode()} dropped")

    def stop(self) -> None:
        """Kill everything that runs on the host."""
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()


class Hosts:
    """Hosts that can reach each other and nothing else.

    Args:
        root: folder of the hosts' folders.
        shared: files and folders that every host can read, under the same path.
        hidden: folders that no host sees.

    Raises:
        FederationError: something is ``missing`` here.
    """

    def __init__(
        self, root: Path, *, shared: Sequence[Path] = (), hidden: Sequence[Path] = ()
    ) -> None:
        self.root = root.resolve()
        state = [Path.home() / place for place in _STATE]
        self.hidden = (*(path.resolve() for path in hidden), *state)
        self.shared = tuple(path.resolve() for path in (*_covered(self.hidden), *shared))
        self._by_name: dict[str, Host] = {}

    def __enter__(self) -> Self:
        if reason := missing():
            raise FederationError(f"cannot make hosts here: {reason}")
        self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.lifeline, ours = os.pipe()
            stack.callback(os.close, self.lifeline)
            stack.callback(os.close, ours)
            self._switch = stack.enter_context(_network())
            self.at_switch(f"link add {_BRIDGE} type bridge", f"link set {_BRIDGE} up")
            stack.callback(self._stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Host:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._by_name.values())

    def add(self, name: str, *, delay_ms: float = 0.0, mbit: float = 0.0) -> Host:
        """One more host.

        Args:
            name: of it and of its folder.
            delay_ms: milliseconds that a frame takes each way.
            mbit: Mbit/s that its link carries each way; 0: as many as the machine does.
        """
        number = len(self._by_name)
        folder, port = self.root / name, f"p{number}"
        for part in ("home", "tmp"):
            (folder / ".host" / part).mkdir(parents=True, exist_ok=True)
        holder = self._stack.enter_context(_network())
        if delay_ms or mbit:
            rate = mbit * 1e6
            settings = {
                "ends": [(_namespace(holder), _DEVICE), (_namespace(self._switch), port)],
                "delay": delay_ms / 1000,
                "rate": rate,
                "limit": max(_MIN_QUEUE, int(rate / 8 * _QUEUE)),
            }
            self._stack.enter_context(_helper([*_module("link"), json.dumps(settings)], "ready"))
        else:
            self.at_switch(f"link add {port} type veth peer name {_DEVICE} netns {holder}")
        self.at_switch(f"link set {port} master {_BRIDGE} up")
        host = Host(name, f"{NETWORK}.{_FIRST + number}", folder, self, holder, port)
        up = f"link set {_DEVICE} up"
        _batch(holder, "link set lo up", f"addr add {host.address}/24 dev {_DEVICE}", up)
        self._by_name[name] = host
        return host

    def at_switch(self, *lines: str) -> None:
        """Give the switch ``ip``'s commands."""
        _batch(self._switch, *lines)

    def _stop(self) -> None:
        for host in self:
            host.stop()


def missing() -> str:
    """Why there can be no hosts on this machine; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root (sudo)"
    tools = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            return f"there is no `{tool}` (Debian's package {package})"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "br0", "type",
         "bridge"],
        capture_output=True,
        check=False,
    )  # fmt: skip
    if tried.returncode:
        return f"the kernel makes no namespace with a bridge: {tried.stderr.decode().strip()}"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun for links with a delay"
    return ""


def _module(name: str) -> list[str]:
    return [sys.executable, "-I", "-m", f"{__package__}.{name}"]


def _namespace(holder: int) -> str:
    return f"/proc/{holder}/ns/net"


@contextlib.contextmanager
def _helper(command: Sequence[str], ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until its standard input ends, once it has said that it is ready."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else b""
            if said.strip().decode() != ready:
                raise FederationError(f"{command[0]} did not start; its words are above")
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def _network() -> Iterator[int]:
    """A network namespace, by the process that holds it."""
    with _helper(["unshare", "--net", "sh", "-c", "echo ready; exec cat"], "ready") as holder:
        yield holder.pid


def _ip(holder: int, *arguments: str, lines: str = "") -> str:
    command = ["nsenter", f"--net={_namespace(holder)}", "ip", *arguments]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FederationError(f"`ip {' '.join(arguments)} {lines}`: {done.stderr.strip()}")
    return done.stdout


def _batch(holder: int, *lines: str) -> None:
    _ip(holder, "-batch", "-", lines="\n".join(lines))


def _covered(hidden: Sequence[Path]) -> list[Path]:
    """Programs that lie where a host has files of its own, or nothing."""
    places = (Path("/tmp"), *hidden)
    return [path for path in map(Path, _PROGRAMS) if any(map(path.is_relative_to, places))]
