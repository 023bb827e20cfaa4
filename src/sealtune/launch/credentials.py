"""Keys and certificates of one run's network engine, made at its start and gone at its end.

They keep strangers on this machine and on the network out of Flower. They protect no data: that is
sealed before Flower sees it.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealtune.launch.ports import HOST

_VALID = datetime.timedelta(days=30)  # longer than any run
_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Credentials:
    """Files that the network engine's programs take.

    Attributes:
        ca: certificate of this run's own authority.
        certificate, key: of the relay, for 127.0.0.1 and localhost.
        nodes: site -> private key (OpenSSH); the public one has the suffix ``.pub``.
    """

    ca: Path
    certificate: Path
    key: Path
    nodes: dict[str, Path]


def make_credentials(folder: Path, sites: tuple[str, ...]) -> Credentials:
    """Write fresh credentials into ``folder``, readable by this user only."""
    folder.mkdir(mode=0o700)
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("sealtune run authority")
    ca = _certificate(ca_name, ca_name, ca_key.public_key(), now, ca=True).sign(
        ca_key, hashes.SHA256()
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")]
    )
    certificate = (
        _certificate(_name("sealtune"), ca_name, key.public_key(), now, ca=False)
        .add_extension(names, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    nodes = {}
    for site in sites:
        node = ec.generate_private_key(ec.SECP384R1())
        nodes[site] = _private(folder / f"node-{site}", _openssh(node))
        public = node.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        _private(folder / f"node-{site}.pub", public)
    return Credentials(
        ca=_private(folder / "ca.pem", ca.public_bytes(pem)),
        certificate=_private(folder / "tls.pem", certificate.public_bytes(pem)),
        key=_private(folder / "tls.key", _pkcs8(key)),
        nodes=nodes,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    *,
    ca: bool,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_usage(ca=ca), critical=True)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pkcs8(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def _private(path: Path, data: bytes) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    return path
