"""Where a job's hosts meet, and by which keys its untrusted carriers know one another.

Nothing here protects data, which is sealed before it is sent: it keeps strangers out of the network
engine. All participants sign it, so that nobody passes certificates round.

Trust domain: every process; manifests and cards come from outside.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)
from pydantic import AfterValidator, Field, model_validator

from sealtune.job.sections import Name, Strict

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from cryptography.x509 import Certificate

MAX_ADDRESS = 300
MAX_CERTIFICATE = 4096  # characters; ours have about 700
NODE_KEY = "ecdsa-sha2-nistp384"
_ADDRESS = re.compile(
    r"(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<port>[1-9][0-9]{0,4})", re.ASCII
)
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")
_LAST_PORT = 2**16 - 1
_CURVES = ("secp256r1", "secp384r1")
_MAX_NODE_KEY = 300  # characters


def host_and_port(address: str) -> tuple[str, int]:
    """The two parts of ``host:port``; the host is a DNS name in lower case, or an IP address.

    Raises:
        ValueError: it is neither ``name:port``, ``1.2.3.4:port`` nor ``[2001:db8::1]:port``.
    """
    form = f"should look like relay.example.org:9092 or [2001:db8::1]:9092, not {address[:80]!r}"
    found = _ADDRESS.fullmatch(address) if len(address) <= MAX_ADDRESS else None
    if found is None or not _is_host(found["host"]):
        raise ValueError(form)
    port = int(found["port"])
    if port > _LAST_PORT:
        raise ValueError(f"has port {port}; ports are from 1 to {_LAST_PORT}")
    return found["host"].strip("[]"), port


def _is_host(text: str) -> bool:
    """Whether it is a host in its one spelling."""
    kind = ipaddress.IPv6Address if text.startswith("[") else ipaddress.IPv4Address
    if kind is ipaddress.IPv4Address and not re.fullmatch(r"[0-9.]+", text):
        return _HOST.fullmatch(text) is not None
    try:
        return str(kind(text.strip("[]"))) == text.strip("[]")
    except ValueError:
        return False


def read_certificate(text: str) -> Certificate:
    """The certificate in ``text``, which is its own authority and no other's.

    Raises:
        ValueError: not one such certificate in PEM, in the one form that this library writes.
    """
    from cryptography import x509  # of no use to a job of one machine

    if len(text) > MAX_CERTIFICATE:
        raise ValueError(f"a certificate has at most {MAX_CERTIFICATE} characters")
    try:
        certificate = x509.load_pem_x509_certificate(text.encode())
        same = certificate.public_bytes(Encoding.PEM).decode() == text
        key = certificate.public_key()
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except InvalidSignature as error:
        raise ValueError("the certificate is not signed by its own key") from error
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise ValueError("not a self-signed certificate in PEM form") from error
    if not same:
        raise ValueError("not one certificate in PEM form and nothing else")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ValueError(f"the certificate's key is not on one of the curves {', '.join(_CURVES)}")
    if constraints.value.ca:
        raise ValueError("the certificate could vouch for others")
    return certificate


def named_hosts(certificate: Certificate) -> set[str]:
    """DNS names and IP addresses that a certificate is for."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    words = names.get_values_for_type(x509.DNSName)
    return {*addresses, *(word for word in words if not re.fullmatch(r"[0-9.]+", word))}


def check_node_key(line: str) -> str:
    """``line``, if it is a public key of a site's node as OpenSSH writes it, without a comment.

    Raises:
        ValueError: it is not.
    """
    try:
        key = load_ssh_public_key(line.encode()) if len(line) <= _MAX_NODE_KEY else None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"not a public key in OpenSSH's form: {NODE_KEY} AAAA…") from error
    if (
        not isinstance(key, ec.EllipticCurvePublicKey)
        or key.curve.name != "secp384r1"
        or key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() != line
    ):
        raise ValueError(f"a node's key is one {NODE_KEY} line without a comment")
    return line


def key_fingerprint(key: PublicKeyTypes) -> str:
    """SHA-256 of a key's SubjectPublicKeyInfo, 64 hex digits."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def node_fingerprint(line: str) -> str:
    """The same of a node's key."""
    return key_fingerprint(load_ssh_public_key(check_node_key(line).encode()))


def _check_address(text: str) -> str:
    host_and_port(text)
    return text


def _check_certificate(text: str) -> str:
    read_certificate(text)
    return text


Address = Annotated[str, AfterValidator(_check_address)]
CertificatePem = Annotated[str, AfterValidator(_check_certificate)]
NodeKey = Annotated[str, AfterValidator(check_node_key)]


class NetworkIdentity(Strict):
    """A job's network, where its parties are on several hosts.

    Attributes:
        sites_at: ``host:port`` where the coordinator's relay serves the sites' nodes.
        server_at: ``host:port`` where it waits for the server's link.
        certificate: of the relay, PEM, its own authority, for the hosts of both addresses.
        server_certificate: PEM, self-signed, that the server's link shows the relay.
        nodes: site -> public key of its node, OpenSSH line, ``ecdsa-sha2-nistp384``.
    """

    sites_at: Address
    server_at: Address
    certificate: CertificatePem
    server_certificate: CertificatePem
    nodes: dict[Name, NodeKey] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.sites_at == self.server_at:
            raise ValueError("sites_at and server_at are the same address")
        check_hosts(self.certificate, self.sites_at, self.server_at)
        relay, link = self.parsed()
        if relay.public_key() == link.public_key():
            raise ValueError("certificate and server_certificate have the same key")
        if len(set(self.nodes.values())) < len(self.nodes):
            raise ValueError("two nodes have the same key")
        return self

    def parsed(self) -> tuple[Certificate, Certificate]:
        """The relay's certificate and the server link's."""
        return read_certificate(self.certificate), read_certificate(self.server_certificate)


def check_hosts(certificate: str, *addresses: str) -> None:
    """Raise ValueError unless ``certificate`` is for the hosts of all ``addresses``."""
    named = named_hosts(read_certificate(certificate))
    absent = sorted({host_and_port(address)[0] for address in addresses} - named)
    if absent:
        raise ValueError(
            f"the certificate is for {', '.join(sorted(named)) or 'no host'}, "
            f"not for {', '.join(absent)}"
        )
