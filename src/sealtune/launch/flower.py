"""Flower's commands, settings and environment for one run on one machine.

Everything that depends on Flower's command line is here; ``docs/flower.md`` says why each switch
is set.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from sealtune.launch.credentials import Credentials
from sealtune.launch.ports import HOST

CONNECTION = "sealtune"  # the SuperLink's name in Flower's config.toml
# Seconds between two questions of a SuperExec for work. Four a second for each site cost 3 % of two
# cores all the time, one a second makes every message wait half a second.
TASK_POLL = "0.5"


@dataclass(frozen=True)
class Flower:
    """One run's Flower deployment.

    Attributes:
        folder: the run's temporary folder; Flower's home is made in it.
        port: of the SuperLink.
        node_ports: site -> port of its SuperNode.
        credentials: files of keys and certificates.
    """

    folder: Path
    port: int
    node_ports: dict[str, int]
    credentials: Credentials

    def environment(self) -> dict[str, str]:
        """Variables for all of Flower's processes: offline, quiet, quick."""
        return {
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": TASK_POLL,
        }

    def write_config(self) -> None:
        """Write ``config.toml`` into Flower's home, so that the ``flwr`` command finds the run."""
        home = self.folder / "flwr"
        home.mkdir()
        # JSON strings are TOML strings.
        lines = [
            "[superlink]",
            f'default = "{CONNECTION}"',
            f"[superlink.{CONNECTION}]",
            f'address = "{HOST}:{self.port}"',
            f"root-certificates = {json.dumps(str(self.credentials.ca))}",
        ]
        (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def superlink(self) -> list[str]:
        """The relay."""
        return [
            _command("flower-superlink"),
            *("--host", HOST, "--port", str(self.port)),
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self.credentials.secret)),
            "--enable-supernode-auth",
            *self._certificates(),
        ]

    def superlink_exec(self) -> list[str]:
        """The process that starts the ServerApp."""
        return self._superexec(self.port)

    def supernode(self, site: str, socket: Path, spool: Path) -> list[str]:
        """A site's connection to the relay."""
        config = f"socket={json.dumps(str(socket))} spool={json.dumps(str(spool))}"
        return [
            *(sys.executable, "-m", "sealtune.federation.supernode"),
            *("--superlink", f"{HOST}:{self.port}"),
            *("--root-certificates", str(self.credentials.ca)),
            *("--auth-supernode-private-key", str(self.credentials.nodes[site])),
            *("--node-config", config),
            *("--isolation", "process"),
            *("--superexec-auth-secret-file", str(self.credentials.secret)),
            *("--host", HOST, "--port", str(self.node_ports[site])),
            *self._certificates(),
        ]

    def supernode_exec(self, site: str) -> list[str]:
        """The process that starts a site's ClientApps."""
        return self._superexec(self.node_ports[site])

    def register(self) -> list[list[str]]:
        """Arguments of ``flwr`` that make the sites known to the relay."""
        return [
            ["supernode", "register", f"{key}.pub", CONNECTION, "--name", site, "--format", "json"]
            for site, key in self.credentials.nodes.items()
        ]

    def submit(self, app: Path) -> list[list[str]]:
        """Arguments of ``flwr`` that start the glue."""
        return [["run", str(app), CONNECTION, "--format", "json"]]

    def _superexec(self, port: int) -> list[str]:
        return [
            _command("flower-superexec"),
            *("--runtime-api-address", f"{HOST}:{port}"),
            *("--root-certificates", str(self.credentials.ca)),
            *("--superexec-auth-secret-file", str(self.credentials.secret)),
        ]

    def _certificates(self) -> list[str]:
        return [
            *("--ssl-certfile", str(self.credentials.certificate)),
            *("--ssl-keyfile", str(self.credentials.key)),
            *("--ssl-ca-certfile", str(self.credentials.ca)),
        ]


def scripts() -> Path:
    """Where this Python environment keeps its commands."""
    return Path(sysconfig.get_path("scripts"))


def _command(name: str) -> str:
    return str(scripts() / name)
