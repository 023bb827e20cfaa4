"""sealtune's programs on hosts: relay, link and nodes, with stand-ins for the enclaves."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any

from deploy_parties import SITES
from deploy_side import BENCHMARKS, Side, certificate
from sealtune.demo.hosts import Host, Hosts
from sealtune.job.network_keys import new_node_key
from sealtune.launch.environment import program

PORT = 9100
PARTIES = BENCHMARKS / "deploy_parties.py"


class Sealtune(Side):
    """sealtune's programs on hosts."""

    name = "sealtune"

    def __init__(self, hosts: Hosts) -> None:
        super().__init__(hosts)
        self._key = secrets.token_bytes(32)  # of simulated evidence
        made, key = certificate(self.coordinator, self.folder(self.coordinator))
        nodes = {site: new_node_key() for site in SITES}
        keys = {site: str(self._write(self.coordinator, f"{site}.pub", nodes[site][1].encode()))
                for site in SITES}  # fmt: skip
        socket = self.folder(self.server) / "server.sock"
        relay = {
            "host": self.coordinator.address,
            "port": PORT,
            "certificate": str(made),
            "key": str(key),
            "sites": keys,
            "socket": str(socket),
        }
        self._enclave(self.server, "server", self.gate_folder, socket)
        self._program(self.coordinator, "relay", relay, "ready")
        for site, host in self.sites.items():
            folder = self.folder(host)
            socket, spool = folder / "site.sock", folder / "spool"
            spool.mkdir()
            authority = self._write(host, "relay.pem", made.read_bytes())
            node = {
                "relay": f"{self.coordinator.address}:{PORT}",
                "authority": str(authority),
                "key": str(self._write(host, "node.key", nodes[site][0])),
                "socket": str(socket),
                "spool": str(spool),
            }
            self._enclave(host, "site", site, socket)
            self._program(host, "node", node)

    def _enclave(self, host: Host, role: str, first: str | Path, socket: Path) -> None:
        key = self._write(host, "simulated-tee.key", self._key)
        self.start(host, role, [sys.executable, PARTIES, role, first, socket, key], {}, "ready")

    def _program(self, host: Host, name: str, config: dict[str, Any], until: str = "") -> None:
        path = self._write(host, f"{name}.json", json.dumps(config).encode())
        env = {
            "FLWR_HOME": str(self.folder(host) / "home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        self.start(host, name, program(name, str(path)), env, until)

    def _write(self, host: Host, name: str, data: bytes) -> Path:
        path = self.folder(host) / name
        path.write_bytes(data)
        path.chmod(0o600)
        return path
