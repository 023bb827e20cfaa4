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
        self._nodes = {site: new_node_key() for site in SITES}
        relay = certificate(self.coordinator, self.folder(self.coordinator))
        link = certificate(self.server, self.folder(self.server))
        self._start_relay(relay, link)
        self._start_server(relay, link)
        for site, host in self.sites.items():
            self._start_site(site, host, relay)

    def _start_relay(self, own: tuple[Path, Path], link: tuple[Path, Path]) -> None:
        host = self.coordinator
        public = {site: line.encode() for site, (_, line) in self._nodes.items()}
        config = {
            "host": host.address,
            "port": PORT,
            "certificate": str(own[0]),
            "key": str(own[1]),
            "sites": {
                site: self._write(host, f"{site}.pub", line) for site, line in public.items()
            },
            "server_host": host.address,
            "server_port": PORT + 1,
            "server_certificate": self._write(host, "link.pem", link[0].read_bytes()),
        }
        self._program(host, "relay", config, "ready")

    def _start_server(self, relay: tuple[Path, Path], own: tuple[Path, Path]) -> None:
        host, socket = self.server, self.folder(self.server) / "server.sock"
        config = {
            "relay": f"{self.coordinator.address}:{PORT + 1}",
            "authority": self._write(host, "relay.pem", relay[0].read_bytes()),
            "certificate": str(own[0]),
            "key": str(own[1]),
            "socket": str(socket),
        }
        self._enclave(host, "server", self.gate_folder, socket)
        self._program(host, "link", config, "connected")

    def _start_site(self, site: str, host: Host, relay: tuple[Path, Path]) -> None:
        socket, spool = self.folder(host) / "site.sock", self.folder(host) / "spool"
        spool.mkdir()
        config = {
            "relay": f"{self.coordinator.address}:{PORT}",
            "authority": self._write(host, "relay.pem", relay[0].read_bytes()),
            "key": self._write(host, "node.key", self._nodes[site][0]),
            "socket": str(socket),
            "spool": str(spool),
        }
        self._enclave(host, "site", site, socket)
        self._program(host, "node", config)

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
        self.start(host, name, program(name, path), env, until)

    def _write(self, host: Host, name: str, data: bytes) -> str:
        path = self.folder(host) / name
        path.write_bytes(data)
        path.chmod(0o600)
        return str(path)
