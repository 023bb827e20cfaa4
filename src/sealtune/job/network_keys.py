"""Make what a job's carriers know one another by: certificates and keys of nodes.

Trust domain: operator (untrusted); they protect no data.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

_SKEW = datetime.timedelta(minutes=5)


def new_certificate(
    name: str, hosts: Iterable[str], valid: datetime.timedelta
) -> tuple[bytes, str]:
    """A certificate that vouches for itself and for no other.

    Args:
        name: what it is called; for people.
        hosts: DNS names and IP addresses that it is for; may be none.

    Returns:
        private key (PEM, not encrypted) and certificate (PEM).
    """
    key = ec.generate_private_key(ec.SECP256R1())
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


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
