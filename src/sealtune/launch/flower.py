"""The network engine's programs: their commands, configuration and environment.

    relay   the coordinator's: serves the sites' nodes, and carries the server's messages
    link    the server's connection to the relay, where they are on two hosts
    node    a site's connection to the relay

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune.launch.credentials import Credentials
from sealtune.launch.domain import GLUE, Domain
from sealtune.launch.environment import program
from sealtune.launch.ports import HOST

RELAY = f"{GLUE}relay"
LINK = f"{GLUE}link"


def environment(folder: Path) -> dict[str, str]:
    """All variables of the engine's processes: Flower writes nothing and asks nobody."""
    return {
        "PYTHONUNBUFFERED": "1",
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }


@dataclass(frozen=True)
class Engine:
    """Writes the programs' configuration.

    Attributes:
        folder: of one party's engine; what it keeps is there, too.
    """

    folder: Path

    def relay(
        self,
        host: str,
        port: int,
        certificate: Path,
        key: Path,
        nodes: Mapping[str, Path],
        **server: Any,
    ) -> Domain:
        """The relay.

        Args:
            host, port: where it serves the nodes.
            certificate, key: that it shows.
            nodes: site -> file of the node's public key.
            server: ``socket`` of a server on this machine, or ``server_host``, ``server_port`` and
                ``server_certificate`` for the link of one elsewhere.
        """
        content = {
            "host": host,
            "port": port,
            "certificate": str(certificate),
            "key": str(key),
            "sites": {site: str(file) for site, file in nodes.items()},
            **server,
        }
        return self._domain("relay", RELAY, content)

    def node(
        self,
        site: str,
        relay: str,
        authority: Path,
        key: Path,
        socket: str,
        *,
        patience: float = 0.0,
    ) -> Domain:
        """A site's node.

        Args:
            relay: the relay's ``host:port``.
            authority: the certificate that it must show.
            key: the site's node key.
            socket: where the site's program listens.
            patience: seconds that it may need to be started again.
        """
        spool = self.folder / "spool" / site
        spool.mkdir(parents=True, exist_ok=True)
        content = {
            "relay": relay,
            "authority": str(authority),
            "key": str(key),
            "socket": socket,
            "spool": str(spool),
            "patience": patience,
        }
        return self._domain("node", f"{GLUE}node:{site}", content)

    def link(
        self, relay: str, authority: Path, certificate: Path, key: Path, socket: str
    ) -> Domain:
        """The server's link; as a node, with a certificate in place of the node key."""
        content = {
            "relay": relay,
            "authority": str(authority),
            "certificate": str(certificate),
            "key": str(key),
            "socket": socket,
        }
        return self._domain("link", LINK, content)

    def _domain(self, kind: str, role: str, content: Mapping[str, Any]) -> Domain:
        path = self.folder / f"{role.removeprefix(GLUE).replace(':', '-')}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return Domain(role, program(kind, str(path)), environment(self.folder))


@dataclass(frozen=True)
class Flower:
    """The engine of a run on one machine.

    Attributes:
        folder: the run's temporary folder.
        port: of the relay.
        credentials: files of keys and certificates.
    """

    folder: Path
    port: int
    credentials: Credentials

    def relay(self, socket: Path) -> Domain:
        """The relay, which asks the aggregator for work once ``socket`` is there."""
        made = self.credentials
        nodes = {site: Path(f"{key}.pub") for site, key in made.nodes.items()}
        engine = Engine(self.folder)
        return engine.relay(HOST, self.port, made.certificate, made.key, nodes, socket=str(socket))

    def node(self, site: str, socket: str) -> Domain:
        """A site's connection to the relay."""
        made = self.credentials
        relay, key = f"{HOST}:{self.port}", made.nodes[site]
        return Engine(self.folder).node(site, relay, made.certificate, key, socket)
