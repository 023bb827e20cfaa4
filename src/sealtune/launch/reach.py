"""Whether the coordinator can be reached from here, and is the one that everybody signed.

Looks only: nobody joins, nothing is sent that is secret, and a link that is there stays.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import socket
import ssl
import time
from base64 import b64encode
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from sealtune.errors import FederationError
from sealtune.job.network import key_fingerprint
from sealtune.sockets import connect, parse

_PATIENCE = 10.0  # seconds
_SKEW = 60.0  # seconds that clocks may differ; the network engine's programs take 300
_KNOWN, _UNKNOWN = (411, 401)  # the relay's answers to a question without a length


def reach(address: str, certificate: str) -> ssl.SSLSocket:
    """A connection to whoever listens at ``host:port``, if it shows ``certificate`` (PEM).

    Raises:
        FederationError: says how far it came: no such name, no way, nobody there, no TLS, another
            certificate, one that has expired.
    """
    try:
        sock = connect(f"tcp:{address}", timeout=_PATIENCE)
    except socket.gaierror as error:
        host = parse(f"tcp:{address}").place
        raise FederationError(
            f"the name {host} has no address here: {error.strerror}",
            hint="check this machine's DNS, and the address in the manifest",
        ) from error
    except ConnectionRefusedError as error:
        raise FederationError(
            f"{address} refuses connections: nobody listens there",
            hint="is `sealtune coordinator` running?",
        ) from error
    except OSError as error:
        raise FederationError(
            f"there is no way to {address}: {error.strerror or 'no answer'}",
            hint="does a firewall or a route on the way keep this host from connecting out?",
        ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # its certificate is compared below, byte by byte
    try:
        link = context.wrap_socket(sock, server_hostname=parse(f"tcp:{address}").place)
    except OSError as error:
        sock.close()
        raise FederationError(
            f"what listens at {address} speaks no TLS 1.3: {error}",
            hint="does a proxy end the connection on the way? It has to pass TLS on",
        ) from error
    try:
        _check(link, address, x509.load_pem_x509_certificate(certificate.encode()))
    except BaseException:
        link.close()
        raise
    return link


def _check(link: ssl.SSLSocket, address: str, pinned: x509.Certificate) -> None:
    shown = link.getpeercert(binary_form=True) or b""
    if shown != pinned.public_bytes(Encoding.DER):
        theirs = key_fingerprint(x509.load_der_x509_certificate(shown).public_key())
        ours = key_fingerprint(pinned.public_key())
        raise FederationError(
            f"{address} shows another certificate than the one in the manifest: its key is "
            f"{theirs[:16]}…, not {ours[:16]}…",
            hint="another job's coordinator, or somebody in between: ask the coordinator",
        )
    now = datetime.now(UTC)
    if not pinned.not_valid_before_utc <= now <= pinned.not_valid_after_utc:
        raise FederationError(
            f"the certificate of {address} is valid from {pinned.not_valid_before_utc:%Y-%m-%d} to "
            f"{pinned.not_valid_after_utc:%Y-%m-%d}; here it is {now:%Y-%m-%d}",
            hint="the job needs a new manifest, or this machine's clock is wrong",
        )


class Asked:
    """What the relay says of a node's key, without letting anybody join.

    Args:
        link: of ``reach``.
        line: the node's public key, as in the manifest.

    Attributes:
        known: whether the relay knows the key.
        skew: seconds that the coordinator's clock is ahead of this one; None: it did not say.

    Raises:
        FederationError: no relay answers.
    """

    def __init__(self, link: ssl.SSLSocket, line: str) -> None:
        key = load_ssh_public_key(line.encode())
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        head = (
            "POST /v1/fleet/activate-node HTTP/1.1",
            "host: relay",
            "connection: close",
            f"flwr-public-key: {b64encode(pem).decode()}",
        )
        # without a length the gate answers before anything is looked at
        try:
            link.sendall("\r\n".join((*head, "", "")).encode())
            answer = HTTPResponse(link, method="POST")
            answer.begin()
        except (OSError, HTTPException) as error:
            raise FederationError(f"the coordinator does not answer: {error}") from error
        if answer.status not in (_KNOWN, _UNKNOWN):
            raise FederationError(
                f"the coordinator answers with status {answer.status}",
                hint="does a proxy on the way let only some paths through? See docs/deploy.md",
            )
        self.known = answer.status == _KNOWN
        self.skew = _ahead(answer.getheader("date", ""))


def _ahead(date: str) -> float | None:
    """Seconds that a clock is ahead of this one; None: what it tells is no time."""
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (OverflowError, TypeError, ValueError):
        return None


def check_clock(skew: float) -> str:
    """How far the clocks are apart, in words.

    Raises:
        FederationError: too far.
    """
    words = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the coordinator's"
    if abs(skew) > _SKEW:
        raise FederationError(
            f"this machine's clock is {words}",
            hint="manifests, certificates and nodes' keys have times: let NTP set the clock",
        )
    return words
