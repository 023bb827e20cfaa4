"""Keys and certificates of one run's network engine, made at its start and gone at its end.

They keep strangers on this machine and on the network out of Flower. They protect no data: that is
sealed before Flower sees it.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from sealtune.job.key_files import create_file
from sealtune.job.network_keys import new_certificate, new_node_key
from sealtune.launch.ports import HOST

_VALID = datetime.timedelta(days=30)  # longer than any run


@dataclass(frozen=True)
class Credentials:
    """Files that the network engine's programs take.

    Attributes:
        certificate, key: of the relay, for 127.0.0.1 and localhost; the certificate is its own
            authority, and the only one that nodes trust.
        nodes: site -> private key (OpenSSH); the public one has the suffix ``.pub``.
    """

    certificate: Path
    key: Path
    nodes: dict[str, Path]


def make_credentials(folder: Path, sites: tuple[str, ...]) -> Credentials:
    """Write fresh credentials into ``folder``, readable by this user only."""
    folder.mkdir(mode=0o700)
    nodes = {}
    for site in sites:
        secret, public = new_node_key()
        nodes[site] = _private(folder / f"node-{site}", secret)
        _private(folder / f"node-{site}.pub", public.encode())
    secret, certificate = new_certificate("sealtune relay", (HOST, "localhost"), _VALID)
    return Credentials(
        certificate=_private(folder / "tls.pem", certificate.encode()),
        key=_private(folder / "tls.key", secret),
        nodes=nodes,
    )


def _private(path: Path, data: bytes) -> Path:
    create_file(path, data, 0o600)
    return path
