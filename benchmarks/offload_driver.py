"""Starts the processes of ``benchmarks/offload.py``, lets them take turns, and counts.

Only one of them computes at a time (with the accelerators that it asks); the others sleep in a
read. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sealtune.launch.environment import program, variables
from sealtune.launch.threads import cores, thread_settings

PARTY = Path(__file__).with_name("offload_party.py")
MAKER = Path(__file__).with_name("offload_model.py")
# where a machine's packages and its GPU's driver lie, if not where programs look by themselves
_PLACES = ("LD_LIBRARY_PATH", "PYTHONPATH")
Figures = dict[str, Any]


class PartyError(RuntimeError):
    """A process failed, died or took too long."""


class Process:
    """A child that speaks in JSON lines.

    Args:
        name: for messages and its log.
        command: program and arguments.
        environment: all of its variables.
        folder: where its log goes.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.child = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log,
            )  # fmt: skip
        self._rest = b""

    def read(self, timeout: float) -> Figures:
        """The next line; lines that are no JSON object are none of ours.

        Raises:
            PartyError: it ended, is too slow, or says that it failed.
        """
        assert self.child.stdout is not None
        until, pipe = time.monotonic() + timeout, self.child.stdout.fileno()
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise PartyError(f"{self.name}: no answer within {timeout:.0f} s")
            got = os.read(pipe, 1 << 16)
            if not got:
                tail = self._log.read_text(errors="replace").strip()[-600:]
                raise PartyError(f"{self.name} ended: {tail}")
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        found: Figures = json.loads(line)
        if "error" in found:
            raise PartyError(f"{self.name}: {found.get('message', found['error'])}")
        return found

    def ask(self, what: str, timeout: float = 120.0, **more: Any) -> Figures:
        """Ask a party and wait for its answer."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps({"ask": what, **more}).encode() + b"\n")
            self.child.stdin.flush()
        except OSError:
            pass  # reading says why
        return self.read(timeout)

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far."""
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it."""
        self.child.terminate()
        try:
            self.child.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.communicate()


class Stage:
    """All processes of one benchmark, in one folder; ends them.

    Args:
        folder: temporary.

    Attributes:
        accelerators: names of processes that are no way to do a step.
        processes: those that run.
        missing: name of a process that failed to start -> why.
    """

    accelerators = frozenset({"accelerator", "pad-accelerator"})

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, Process] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.close()

    def party(self, name: str, settings: Mapping[str, Any]) -> Process:
        """Start a way to do a step with the variables that ``sealtune run`` gives an enclave.

        Plain PEFT gets them, too: they only help it.
        """
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps({"folder": str(self.folder), **settings}))
        environment = _environment(thread_settings("client", 1, cores()))
        return self._start(name, [sys.executable, "-B", str(PARTY), str(path)], environment)

    def maker(self, name: str, settings: Mapping[str, Any]) -> Process:
        """Start what makes a model of random weights."""
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(settings))
        return self._start(name, [sys.executable, "-B", str(MAKER), str(path)], _environment({}))

    def expect_ready(self, process: Process, until: float) -> Figures | None:
        """Wait for a process to load; one that fails is let go and stands in ``missing``."""
        try:
            return process.read(max(1.0, until - time.monotonic()))
        except PartyError as error:
            self.missing[process.name] = str(error)[:500]
            self.processes.pop(process.name).close()
            return None

    def accelerator(self, plan: Mapping[str, Any], device: str | None = None) -> str:
        """Start the accelerator's own program; returns its address."""
        return self._multiplies("accelerator", plan, device, prefix_blocks=0, untrusted_shm=None)

    def pad_accelerator(self, plan: Mapping[str, Any], device: str | None = None) -> Figures:
        """Start the pad accelerator's own program; returns what a site must know of it."""
        from sealtune.channel.hpke import KeyPair

        pair, job = KeyPair.generate(), "00" * 48
        key = self.folder / "pads.hpke.key"
        key.write_text(pair.private().hex())
        address = self._multiplies(
            "pad-accelerator", plan, device, key=str(key), job=job, sites=["one"]
        )
        return {"address": address, "key": pair.public_bytes.hex(), "job": job, "site": "one"}

    def _multiplies(
        self, name: str, plan: Mapping[str, Any], device: str | None, **more: object
    ) -> str:
        address, path = f"unix:{self.folder}/{name}.sock", self.folder / f"{name}.json"
        config = {"listen": address, "device": device, "groups": plan["groups"], **more}
        path.write_text(json.dumps({**config, "backbone": plan["backbone"]["path"]}))
        environment = _environment(thread_settings("accelerator", 1, cores()))
        self._start(name, _isolated(program(name, str(path))), environment)
        return address

    def _start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
        process = Process(name, command, environment, self.folder)
        self.processes[name] = process
        return process

    def cpu_seconds(self, *names: str) -> float:
        """Processor time of some processes so far."""
        return sum(self.processes[name].cpu_seconds() for name in names)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    places = {name: os.environ[name] for name in _PLACES if name in os.environ}
    return variables(extra) | places


def _isolated(command: list[str]) -> list[str]:
    """``command``, or one that finds packages in PYTHONPATH, which ``-I`` leaves out."""
    if "PYTHONPATH" not in os.environ:
        return command
    return ["-P" if word == "-I" else word for word in command]


def rounds(
    ways: Mapping[str, Callable[[], Figures]], count: int, until: float
) -> dict[str, list[Figures]]:
    """Let the ways take turns; the first round warms up and is dropped.

    Args:
        ways: each does one step and returns its seconds.
        count: rounds wanted.
        until: on the monotonic clock: no round begins later, though one is always made.
    """
    names, found = list(ways), {name: [] for name in ways}  # type: dict[str, list[Figures]]
    for number in range(count + 1):
        if number > 1 and time.monotonic() > until:
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(ways[name]())
    return {name: values[1:] for name, values in found.items()}


def middle(values: Sequence[float]) -> float:
    """Median, rounded."""
    return round(statistics.median(values), 4)


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower and upper quartile."""
    if len(values) < 2:
        return [round(values[0], 3)] * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [round(low, 3), round(high, 3)]


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, list[float]]:
    """Median and quartiles of ``above / below``, round by round."""
    values = [a / b for a, b in zip(above, below, strict=True)]
    return round(statistics.median(values), 3), quartiles(values)


def processor() -> Figures:
    """What this machine computes with."""
    text = Path("/proc/cpuinfo").read_text()
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    wanted = ("aes", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "vaes",
              "amx_int8", "amx_bf16", "asimd", "asimddp")  # fmt: skip
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "processor": fields.get("model name", "unknown"),
        "flags": [flag for flag in wanted if flag in flags],
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
    }
