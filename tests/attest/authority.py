"""Certificates of a made-up vendor, to reach what no recorded evidence shows."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sealtune.attest.platforms.certs import digest

START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2049, 1, 1, tzinfo=datetime.UTC)


class Authority:
    """A root, an intermediate and the leaves they issue, all on P-384."""

    def __init__(self, *, intermediate_is_ca: bool = True) -> None:
        self.root_key, self.key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
        self.root = _issue("root", self.root_key, "root", self.root_key, ca=True)
        self.intermediate = _issue("middle", self.key, "root", self.root_key, ca=intermediate_is_ca)
        self.roots = {digest(self.root)}

    def leaf(
        self, name: str, extensions: dict[str, bytes] | None = None, *, number: int = 7
    ) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """A leaf's key, and its chain in PEM."""
        key = ec.generate_private_key(ec.SECP384R1())
        leaf = _issue(name, key, "middle", self.key, ca=False, more=extensions or {})
        return key, b"".join(
            certificate.public_bytes(serialization.Encoding.PEM)
            for certificate in (leaf, self.intermediate, self.root)
        )


def _issue(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool,
    more: dict[str, bytes] | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(common_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    for oid, value in (more or {}).items():
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(unknown, critical=False)
    return builder.sign(issuer_key, hashes.SHA384())


def common_name(text: str) -> x509.Name:
    """A subject or issuer of nothing but a common name."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> tuple[int, int]:
    """r and s of an ECDSA signature with SHA-384."""
    return decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA384())))
