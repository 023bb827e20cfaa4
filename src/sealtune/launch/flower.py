"""The network engine's two programs and their configuration for one run on one machine.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune.launch.credentials import Credentials
from sealtune.launch.environment import program
from sealtune.launch.ports import HOST


@dataclass(frozen=True)
class Flower:
    """One run's network engine.

    Attributes:
        folder: the run's temporary folder.
        port: of the relay.
        credentials: files of keys and certificates.
    """

    folder: Path
    port: int
    credentials: Credentials

    def environment(self) -> dict[str, str]:
        """All variables of the engine's processes: Flower writes nothing and asks nobody."""
        return {
            "PYTHONUNBUFFERED": "1",
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    def relay(self, socket: Path) -> list[str]:
        """The relay, which asks the aggregator for work once ``socket`` is there."""
        content = {
            "host": HOST,
            "port": self.port,
            "certificate": str(self.credentials.certificate),
            "key": str(self.credentials.key),
            "sites": {site: f"{key}.pub" for site, key in self.credentials.nodes.items()},
            "socket": str(socket),
        }
        return self._program("relay", "relay", content)

    def node(self, site: str, socket: Path, spool: Path) -> list[str]:
        """A site's connection to the relay."""
        content = {
            "relay": f"{HOST}:{self.port}",
            "authority": str(self.credentials.certificate),
            "key": str(self.credentials.nodes[site]),
            "socket": str(socket),
            "spool": str(spool),
        }
        return self._program("node", f"node-{site}", content)

    def _program(self, kind: str, name: str, content: dict[str, Any]) -> list[str]:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return program(kind, str(path))
