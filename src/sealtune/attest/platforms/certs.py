"""X.509 chains from a vendor's pinned root down to the key that signed evidence.

Roots are pinned by the SHA-256 of the whole certificate. The other certificates come from whoever
shows the evidence: they carry the vendor's signature, so it does not matter who delivers them.

What is checked: each certificate is signed and named by the next, each issuer may issue
(basicConstraints), all are within their validity, the last one is the pinned root. What is not:
revocation, except for Intel, whose collateral contains its lists.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from sealtune.attest.errors import BadChainError, BadSignatureError, StaleCollateralError
from sealtune.job.printable import printable

MAX_CERTIFICATES = 8
# Everything that `cryptography` raises over certificates that are not what they should be.
X509_ERRORS = (
    InvalidSignature,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    OverflowError,
    x509.AttributeNotFound,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_BLOCK = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----",
)
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----\r?\n((?:[A-Za-z0-9+/=]{1,76}\r?\n)+)"
    rb"-----END CERTIFICATE-----(?:\r?\n)?"
)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever `cryptography` says about a strange certificate into `BadChainError`.

    Its warnings are dropped: AMD gives every VCEK the serial number zero, which RFC 5280 forbids,
    and what else is odd is decided here by errors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except X509_ERRORS as error:
        raise BadChainError(what) from error


def load_der(raw: bytes) -> x509.Certificate:
    """Parse one certificate.

    Raises:
        BadChainError: not a certificate.
    """
    with reading("not an X.509 certificate"):
        return x509.load_der_x509_certificate(raw)


def load_pem_bundle(raw: bytes) -> list[x509.Certificate]:
    """Parse certificates in PEM as people keep them: in any order, text around them skipped.

    Raises:
        BadChainError: no certificate, too many, or one that cannot be read.
    """
    bundle: list[x509.Certificate] = []
    for match in _BLOCK.finditer(raw):
        try:
            certificate = load_der(base64.b64decode(b"".join(match[1].split()), validate=True))
        except ValueError as error:
            raise BadChainError("certificate is not base64") from error
        if certificate not in bundle:
            bundle.append(certificate)
        if len(bundle) > MAX_CERTIFICATES:
            raise BadChainError(f"more than {MAX_CERTIFICATES} certificates")
    if not bundle or raw.count(b"-----BEGIN CERTIFICATE-----") != len(_BLOCK.findall(raw)):
        raise BadChainError("no certificate in PEM, or one that is cut short")
    return bundle


def issued_chain(
    leaf: x509.Certificate, bundle: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """Order a bundle by who issued whom, from ``leaf`` as far up as it goes.

    Certificates that have no part in it are left out. To be held against a pinned root with
    `verify_chain`.
    """
    chain = [leaf]
    while above := [c for c in bundle if c not in chain and _issued(chain[-1], c)]:
        chain.append(above[0])
    return chain


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        with reading("not its issuer"):
            certificate.verify_directly_issued_by(issuer)
    except BadChainError:
        return False
    return True


def load_pem_chain(raw: bytes) -> list[x509.Certificate]:
    """Parse certificates in PEM, leaf first, with canonical base64 and nothing in between.

    PEM in a quote is not covered by any signature, and lenient decoders skip what they do not
    know: then flipped bits go unseen. Here they do not.

    Raises:
        BadChainError: anything but strict PEM, no certificate, or too many.
    """
    chain: list[x509.Certificate] = []
    end = 0
    while end < len(raw):
        match = _PEM.match(raw, end)
        if match is None or len(chain) == MAX_CERTIFICATES:
            raise BadChainError("certificate chain is not strict PEM, or too long")
        text = match[1].replace(b"\r", b"").replace(b"\n", b"")
        try:
            der = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise BadChainError("certificate is not base64") from error
        if base64.b64encode(der) != text:
            raise BadChainError("certificate is not canonical base64")
        chain.append(load_der(der))
        end = match.end()
    if not chain:
        raise BadChainError("no certificate where a chain was expected")
    return chain


def digest(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the whole certificate."""
    return certificate.fingerprint(hashes.SHA256())


def verify_chain(
    chain: Sequence[x509.Certificate], *, roots: Collection[bytes], at: datetime, what: str
) -> None:
    """Check a chain, leaf first and root last.

    Args:
        chain: at least two certificates.
        roots: SHA-256 digests of the roots that are accepted.
        at: must lie within the validity of all of them.
        what: named in messages, such as "VCEK".

    Raises:
        BadChainError: the chain does not lead to an accepted root.
        StaleCollateralError: a certificate is not valid at that time.
    """
    if len(chain) < 2:
        raise BadChainError(f"the {what} chain has no issuer")
    if digest(chain[-1]) not in roots:
        raise BadChainError(f"the {what} chain does not end in a pinned root of its vendor")
    for index, certificate in enumerate(chain):
        issuer = chain[min(index + 1, len(chain) - 1)]
        _check_issued(certificate, issuer, what)
        with reading(f"{_name(certificate)} of the {what} chain has no validity"):
            first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= at <= last:
            raise StaleCollateralError(
                f"a certificate of the {what} chain ({_name(certificate)}) is valid from "
                f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, not at {at:%Y-%m-%d}"
            )


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate, what: str) -> None:
    names = f"{_name(certificate)} of the {what} chain was not issued by {_name(issuer)}"
    with reading(names):
        certificate.verify_directly_issued_by(issuer)
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    if not constraints.ca:
        raise BadChainError(f"{_name(issuer)} of the {what} chain may not issue certificates")


def _name(certificate: x509.Certificate) -> str:
    return printable(common_name(certificate), 80) or "a certificate without a name"


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or nothing."""
    try:
        with reading("a certificate without a name"):
            names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except BadChainError:
        return ""
    return str(names[0].value) if len(names) == 1 else ""


def extension(certificate: x509.Certificate, oid: str) -> bytes | None:
    """Raw value of a vendor's extension, or None.

    Raises:
        BadChainError: the certificate's extensions cannot be read.
    """
    with reading("extensions of a certificate cannot be read"):
        for found in certificate.extensions:
            if found.oid.dotted_string == oid:
                value = found.value
                return value.value if isinstance(value, x509.UnrecognizedExtension) else None
    return None


def verify_p384(certificate: x509.Certificate, r: int, s: int, signed: bytes, what: str) -> None:
    """ECDSA P-384 with SHA-384 by the certificate's key.

    Raises:
        BadChainError: the certificate has no P-384 key.
        BadSignatureError: the signature is wrong.
    """
    with reading(f"the {what} certificate has no usable key"):
        key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadChainError(f"the {what} certificate has no P-384 key")
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError) as error:
        raise BadSignatureError(f"the {what} signature over the report is wrong") from error


def sha384(*parts: bytes) -> bytes:
    """SHA-384 of a concatenation of fixed-size fields."""
    return hashlib.sha384(b"".join(parts)).digest()
