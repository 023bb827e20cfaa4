"""Keys and certificates of one run's network engine, made at its start and gone at its end.

They keep strangers on this machine and on the network out of Flower. They protect no data: that is
sealed before Flower sees it.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sealtune.job.key_files import create_file
from sealtune.launch.ports import HOST

_VALID = datetime.timedelta(days=30)  # longer than any run
_SKEW = datetime.timedelta(minutes=5)


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
    key = ec.generate_private_key(ec.SECP256R1())
    nodes = {}
    for site in sites:
        node = ec.generate_private_key(ec.SECP384R1())
        nodes[site] = _private(
            folder / f"node-{site}", _pem(node, serialization.PrivateFormat.OpenSSH)
        )
        public = node.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        _private(folder / f"node-{site}.pub", public)
    return Credentials(
        certificate=_private(folder / "tls.pem", _self_signed(key)),
        key=_private(folder / "tls.key", _pem(key, serialization.PrivateFormat.PKCS8)),
        nodes=nodes,
    )


def _self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A certificate for this machine that vouches for itself and for no other."""
    now, public = datetime.datetime.now(datetime.UTC), key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sealtune relay")])
    names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _private(path: Path, data: bytes) -> Path:
    create_file(path, data, 0o600)
    return path
