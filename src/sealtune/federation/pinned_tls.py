"""TLS 1.3 between relay and link, in which each side knows the other's one certificate.

No authority and no name vouches for anybody: the peer shows the very certificate that this side was
given, and a key that belongs to it. Its name and its dates are checked on top.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from sealtune.errors import FederationError


def context(certificate: Path, key: Path, peer: str, *, server: bool) -> ssl.SSLContext:
    """Shows the certificate of ``certificate`` and accepts that of ``peer`` (PEM).

    Args:
        server: for the side that listens.

    Raises:
        FederationError: files that are no certificate and its key.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    try:
        made.load_verify_locations(cadata=peer)
        made.load_cert_chain(certificate, key)
        _der(peer)
    except (OSError, ValueError) as error:
        raise FederationError(f"no certificate, or none with this key: {certificate}") from error
    if server:
        made.num_tickets = 0  # each connection proves itself anew
    return made


def check_peer(connection: ssl.SSLSocket | ssl.SSLObject, peer: str) -> None:
    """Make sure that the other side showed the certificate ``peer`` (PEM) and no other.

    Raises:
        FederationError: it did not.
    """
    if connection.getpeercert(binary_form=True) != _der(peer):
        raise FederationError("the other side shows another certificate than the pinned one")


def _der(pem: str) -> bytes:
    if pem.count("BEGIN CERTIFICATE") != 1:
        raise ValueError("one certificate is pinned, no chain of them")
    return ssl.PEM_cert_to_DER_cert(pem.strip())
