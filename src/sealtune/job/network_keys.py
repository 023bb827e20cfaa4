"""Make what a job's carriers know one another by: certificates and keys of nodes.

    public = made_node_key(Path("north.node.key"))
    pem = certificate(Path("server.tls.key"), "server", ())

Trust domain: operator (untrusted); they protect no data.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import NameOID

from sealtune.errors import KeyFileError
from sealtune.job.key_files import create_file, read_private
from sealtune.job.network import read_certificate

_SKEW = datetime.timedelta(days=1)  # other machines' clocks may be behind
HOST_YEARS = datetime.timedelta(days=3 * 366)  # longer than any card and manifest together


def new_certificate(
    name: str,
    hosts: Iterable[str],
    valid: datetime.timedelta,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> tuple[bytes, str]:
    """A certificate that vouches for itself and for no other.

    Args:
        name: what it is called; for people.
        hosts: DNS names and IP addresses that it is for; may be none.
        valid: for how long.
        key: the key it is of; default: a new one.

    Returns:
        private key (PEM, not encrypted) and certificate (PEM).
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    title = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(title)
        .issuer_name(title)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if names := [_name(host) for host in dict.fromkeys(hosts)]:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return secret, certificate.public_bytes(Encoding.PEM).decode()


def new_node_key() -> tuple[bytes, str]:
    """A site's node's private key (OpenSSH, not encrypted) and its public line."""
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return secret, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def made_node_key(path: Path) -> str:
    """As ``node_key``, of a file that is made if it is not there, mode 0600.

    Raises:
        StorageError: it cannot be written.
    """
    if path.exists():
        return node_key(path)
    secret, line = new_node_key()
    create_file(path, secret, 0o600)
    return line


def node_key(path: Path) -> str:
    """The public line of the node's private key in ``path``.

    Raises:
        KeyFileError: it cannot be read, is no such key, or others may read it.
    """
    try:
        key = load_ssh_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_one(path, "of a node") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise _not_one(path, "of a node")
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def certificate(path: Path, name: str, hosts: Iterable[str]) -> str:
    """A certificate of the TLS key in ``path``, which is made if it is not there.

    Args:
        path: of the private key, PEM.
        name, hosts: as for ``new_certificate``.

    Raises:
        KeyFileError, StorageError: as for ``made_node_key``.
    """
    key = _tls_key(path) if path.exists() else None
    secret, made = new_certificate(name, hosts, HOST_YEARS, key)
    if key is None:
        create_file(path, secret, 0o600)
    return made


def is_tls_key(path: Path, certificate: str) -> bool:
    """Whether ``certificate`` is of the private key in ``path``.

    Raises:
        KeyFileError: as for ``node_key``.
    """
    return _tls_key(path).public_key() == read_certificate(certificate).public_key()


def _tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _not_one(path, "for TLS") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _not_one(path, "for TLS")
    return key


def _not_one(path: Path, what: str) -> KeyFileError:
    return KeyFileError(
        f"{path} holds no private key {what}",
        hint="`sealtune site describe`, `server describe` and `coordinator describe` make them",
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
