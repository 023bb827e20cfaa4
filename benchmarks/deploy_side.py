"""What both sides of ``deploy.py`` have in common: programs on hosts, their logs and their orders.

Both sides stand on the same hosts: the coordinator, one for the server, and one for each site.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy_gate import Gate, Order
from deploy_parties import SITES
from sealtune.demo.hosts import Host, Hosts
from sealtune.job.network_keys import new_certificate

PATIENCE = 120.0  # seconds until a program stands
BENCHMARKS = Path(__file__).resolve().parent


class Side:
    """Programs on hosts.

    Args:
        hosts: all of them.

    Attributes:
        name: the side's.
    """

    name = ""

    def __init__(self, hosts: Hosts) -> None:
        self.coordinator, self.server = hosts["coordinator"], hosts["server"]
        self.sites = {site: hosts[site] for site in SITES}
        self._running: dict[Path, subprocess.Popen[bytes]] = {}
        self.gate_folder = self.folder(self.server) / "gate"
        self.gate_folder.mkdir()
        self._gate = Gate(self.gate_folder)

    def folder(self, host: Host) -> Path:
        """This side's folder on a host."""
        folder = host.folder / self.name
        folder.mkdir(exist_ok=True)
        return folder

    def start(
        self,
        host: Host,
        name: str,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        until: str = "",
    ) -> subprocess.Popen[bytes]:
        """Start a program, and wait until its log says ``until``."""
        path = self.folder(host) / f"{name}.log"
        folders = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        variables = {"PATH": folders, "PYTHONPATH": str(BENCHMARKS), "PYTHONUNBUFFERED": "1"}
        with path.open("wb") as log:
            process = host.start(command, env=variables | dict(env), stdout=log, stderr=log)
        self._running[path] = process
        wait_for(lambda: until in path.read_text(errors="replace"), self.check, f"{path}: {until}")
        return process

    def check(self) -> None:
        """Raise when a program has ended."""
        for path, process in self._running.items():
            if process.poll():
                log = path.read_text(errors="replace")[-4000:]
                raise SystemExit(f"{path.stem} ended with code {process.returncode}:\n{log}")

    def run(self, order: Order) -> list[float]:
        """Have rounds run; seconds of each."""
        return self._gate.order(order, self.check, PATIENCE + order.rounds * (90 + order.work))


def certificate(host: Host, folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for a host and its key."""
    names = (host.address, "127.0.0.1")
    secret, public = new_certificate("benchmark", names, datetime.timedelta(days=1))
    key, made = folder / "tls.key", folder / "tls.pem"
    key.write_bytes(secret)
    key.chmod(0o600)
    made.write_text(public)
    return made, key


def wait_for(condition: Callable[[], bool], alive: Callable[[], None], what: str) -> None:
    """Look until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        alive()
        if time.monotonic() > end:
            raise SystemExit(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.05)
