"""Flower as it ships, with its plain FedAvg app: SuperLink, three SuperNodes, TLS.

The ServerApp runs on the server's host, under a SuperExec there, as Flower's ``process`` isolation
has it: it reaches the SuperLink over the network, as sealtune's server does. Its intervals of
polling are Flower's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy_side import BENCHMARKS, Side, certificate
from sealtune.demo.hosts import Host, Hosts

PORT = 9000


class Flower(Side):
    """Flower's programs on hosts."""

    name = "flower"

    def __init__(self, hosts: Hosts) -> None:
        super().__init__(hosts)
        made, key = certificate(self.coordinator, self.folder(self.coordinator))
        address = f"{self.coordinator.address}:{PORT}"
        link = ["flower-superlink", "--host", self.coordinator.address, "--port", str(PORT),
                "--ssl-certfile", made, "--ssl-keyfile", key, "--ssl-ca-certfile", made,
                "--isolation", "process", "--disable-runtime-dependency-installation"]  # fmt: skip
        self._start(self.coordinator, "superlink", link, "Uvicorn running")
        executor = ["flower-superexec", "--runtime-api-address", address]
        self._start(self.server, "superexec", self._trusting(self.server, executor, made))
        for site in self.sites.values():
            node = ["flower-supernode", "--superlink", address]
            self._start(site, "supernode", self._trusting(site, node, made), "SuperNode ID")
        self._submit(address, made)

    def _start(self, host: Host, name: str, command: list[str | Path], until: str = "") -> None:
        home = self.folder(host) / "home"
        env = {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        self.start(host, name, command, env, until)

    def _trusting(self, host: Host, command: list[str], made: Path) -> list[str | Path]:
        copy = shutil.copy(made, self.folder(host))
        return [*command, "--root-certificates", Path(copy)]

    def _submit(self, address: str, made: Path) -> None:
        """Start the app's run."""
        home, app = self.folder(self.coordinator) / "home", self.folder(self.coordinator) / "app"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink.here]\naddress = "{address}"\nroot-certificates = "{made}"\n',
            encoding="utf-8",
        )
        shutil.copytree(BENCHMARKS / "flower_app", app)
        gate = f'gate="{self.gate_folder}"'
        command: list[str | Path] = ["flwr", "run", app, "here", "--run-config", gate]
        self._start(self.coordinator, "run", command, "Successfully started run")
