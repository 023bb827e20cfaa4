"""A party's side of the network engine, as the manifest and its own file have it.

Trust domain: operator (untrusted). These keys protect no data; they keep strangers out.
"""

from __future__ import annotations

from pathlib import Path

from sealtune.errors import ConfigError, Problem, UnknownKeyError
from sealtune.job.local import Local, Side
from sealtune.job.manifest import Manifest
from sealtune.job.network import NetworkIdentity
from sealtune.job.network_keys import is_tls_key, node_key
from sealtune.launch.domain import Domain
from sealtune.launch.flower import Engine
from sealtune.sockets import parse

_PATIENCE = 600.0  # seconds that a site's program has to be there again, with its model
# which key of its local file a party shows the network
_KEY_OF: dict[Side, str] = {"coordinator": "tls_key", "server": "tls_key", "site": "node_key"}


def network_of(manifest: Manifest) -> NetworkIdentity:
    """Where the hosts of a job meet.

    Raises:
        ConfigError: it is a job of one machine.
    """
    if manifest.network is None:
        words = "is of a job of one machine: it names no network"
        raise ConfigError(
            "local file",
            [Problem("manifest", words)],
            hint="`sealtune run` runs it; `sealtune job build --cards` makes one for several hosts",
        )
    return manifest.network


def check_network_key(local: Local, manifest: Manifest) -> None:
    """Whether a party's key for the network is the one that the manifest knows.

    Raises:
        ConfigError: it has none, or the job is one of one machine.
        KeyFileError: it cannot be read, is none, or others may read it.
        UnknownKeyError: it is another one.
    """
    name = _KEY_OF.get(local.role)
    if name is None:
        return
    network = network_of(manifest)
    path: Path | None = getattr(local, name)
    if path is None:
        words = f"is missing: the network knows the {local.role} by it"
        raise ConfigError(f"local file of the {local.name}", [Problem(name, words)])
    if local.role == "site":
        known = node_key(path) == network.nodes.get(local.site or "")
        whose = f"the node key that the manifest names for '{local.site}'"
    else:
        theirs = network.certificate if local.role == "coordinator" else network.server_certificate
        known = is_tls_key(path, theirs)
        whose = f"that of the {local.role}'s certificate in the manifest"
    if not known:
        raise UnknownKeyError(
            f"{path} is not {whose}",
            hint=f"`{name}` in the local file is the key that was made with this party's card",
        )


def glue_of(local: Local, manifest: Manifest, folder: Path) -> Domain | None:
    """The network engine's program of a party; None for an accelerator, which has none.

    Args:
        folder: for what the program reads and keeps.

    Raises:
        SealtuneError: as ``check_network_key``.
    """
    check_network_key(local, manifest)
    if local.accelerates:
        return None
    network, engine = network_of(manifest), Engine(folder)
    authority = folder / "relay.pem"
    authority.write_text(network.certificate)
    if local.role == "site":
        key = _given(local.node_key)
        return engine.node(
            local.site or "", network.sites_at, authority, key, local.listen, patience=_PATIENCE
        )
    key, server = _given(local.tls_key), folder / "server.pem"
    server.write_text(network.server_certificate)
    if local.role == "server":
        return engine.link(network.server_at, authority, server, key, local.listen)
    nodes = {}
    for site, line in network.nodes.items():
        nodes[site] = folder / f"node-{site}.pub"
        nodes[site].write_text(line)
    nodes_at, server_at = parse(local.listen), parse(local.listen_server)
    return engine.relay(
        nodes_at.place,
        nodes_at.port,
        authority,
        key,
        nodes,
        server_host=server_at.place,
        server_port=server_at.port,
        server_certificate=str(server),
    )


def _given(path: Path | None) -> Path:
    if path is None:
        raise TypeError("a key that was checked to be there")
    return path
