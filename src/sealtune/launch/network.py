"""A party's side of the network engine, as the manifest and its own file have it.

Trust domain: operator (untrusted). These keys protect no data; they keep strangers out.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from sealtune.errors import ConfigError, KeyFileError, Problem, UnknownKeyError
from sealtune.job.key_files import MAX_FILE
from sealtune.job.local import Local, Side
from sealtune.job.manifest import Manifest
from sealtune.job.network import NetworkIdentity
from sealtune.job.storage import read_bounded
from sealtune.launch.domain import Domain
from sealtune.launch.flower import Engine
from sealtune.sockets import parse

_PATIENCE = 120.0  # seconds that a site's program has to be there again, before its node says so
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
        public = _read(path, load_ssh_private_key).public_key()
        line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        known = line == network.nodes.get(local.site or "")
        whose = f"the node key that the manifest names for '{local.site}'"
    else:
        theirs = network.certificate if local.role == "coordinator" else network.server_certificate
        certificate = x509.load_pem_x509_certificate(theirs.encode())
        known = _read(path, load_pem_private_key).public_key() == certificate.public_key()
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
    if local.role == "accelerator":
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


def _read(path: Path, load: Callable[[bytes, None], Any]) -> EllipticCurvePrivateKey:
    """The private key in a file that nobody else may read."""

    def failure(words: str) -> KeyFileError:
        return KeyFileError(f"key file {path} {words}")

    data = read_bounded(path, MAX_FILE, failure)
    try:
        key = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise failure("holds no private key of the network's") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise failure("holds no key on an elliptic curve")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}"
        )
    return key
