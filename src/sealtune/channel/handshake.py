"""The attested handshake: two round trips, both sides prove what they are before a key moves.

    1. server -> client  challenge     nonce_s
    2. client -> server  client-hello  nonce_c, pk_c, evidence_c over nonce_s and 1
    3. server -> client  server-hello  pk_s, seal(pk_c, k_s), evidence_s over nonce_c, 1 and 2
    4. client -> server  client-key    seal(pk_s, k_c), confirmation
    5. server -> client  the first sealed message

Evidence covers the name of the peer that it is made for and every message before it, so none serves
in another conversation: a participant who lets the server answer a neighbour's nonce gets evidence
that names the participant. The server releases its half k_s only after it has verified the client's
evidence, the client its half k_c only after the server's. Each half opens for one job, one piece of
evidence, one purpose. The session secrets come from both halves and a hash of all messages, so that
a party in the middle that changed any byte leaves both ends with different keys. Message 4 shows
the server that the client has them; that message 5 opens shows the client that the server has, and
only then does the client give up an older channel. ``docs/handshake.pml`` is a model of this that
is checked.

Both sides are state machines of bytes in and bytes out. One object is good for one handshake: any
refusal ends it, and a nonce is answered once. Start again with a new object.

    server = ServerHandshake(job_id, site, attester, verifier, policy)
    client = ClientHandshake(job_id, site, attester, verifier, policy)
    hello = client.on_challenge(server.challenge())
    server_hello = server.on_hello(hello)
    client_key, at_client = client.on_server_hello(server_hello)
    at_server = server.on_client_key(client_key)

The two sides are in ``client`` and ``server``; here is what they share.

Trust domain: client enclave and server enclave.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune import frames
from sealtune.attest.appraise import verify_party
from sealtune.attest.errors import NonceReusedError
from sealtune.attest.evidence import (
    DOMAIN,
    MAX_EVIDENCE,
    NONCE_SIZE,
    Attester,
    Claims,
    Evidence,
    Verifier,
    gpu_nonce,
    report_data,
)
from sealtune.attest.policy import AppraisalPolicy
from sealtune.channel.hpke import ENCAPSULATED, TAG
from sealtune.channel.sealed import SealedSession
from sealtune.errors import ChannelError, FrameError
from sealtune.frames import length_prefixed

VERSION = 2
SHARE_SIZE = 32  # bytes of k_s and of k_c
CONFIRMATION_SIZE = 48
JOB_ID_SIZE = 48
SEALED_SHARE = ENCAPSULATED + SHARE_SIZE + TAG
SERVER = "server"


def client_role(site: str) -> str:
    """The role name of a site's enclave, as bound into evidence and sealed messages."""
    return f"client:{site}"


@dataclass(frozen=True)
class Established:
    """What a completed handshake gives to one side.

    Attributes:
        outgoing: seals what this side sends.
        incoming: opens what this side receives.
        peer: what the other side has proved to be.
        transcript: SHA-384 over all messages; equal on both sides.
    """

    outgoing: SealedSession
    incoming: SealedSession
    peer: Claims
    transcript: bytes


def _now() -> datetime:
    return datetime.now(UTC)


class Handshake:
    """What both sides share: context, own key pair and nonce, and the order of steps."""

    def __init__(
        self,
        job_id: bytes,
        site: str,
        attester: Attester,
        verifier: Verifier,
        policy: AppraisalPolicy,
        *,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        if len(job_id) != JOB_ID_SIZE:
            raise ChannelError(f"a job id has {JOB_ID_SIZE} bytes, not {len(job_id)}")
        self._job_id = job_id
        self._site = site
        self._attester = attester
        self._verifier = verifier
        self._policy = policy
        self._clock = clock
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        self._messages: list[bytes] = []
        self._next = 0

    @contextmanager
    def _step(self, number: int) -> Iterator[None]:
        """Run step ``number``, once and in order; a failure ends the handshake."""
        if self._next != number:
            why = "failed" if self._next < 0 else "is past this step or not there yet"
            raise NonceReusedError(
                f"handshake with {self._site} {why}; a nonce is answered once",
                hint="start a new handshake",
            )
        self._next = -1
        yield
        self._next = number + 1

    def _say(self, kind: str, body: bytes = b"", **fields: bytes) -> bytes:
        """A message that what follows builds on."""
        self._messages.append(message(kind, body, **fields))
        return self._messages[-1]

    def _bind(self, role: str, peer: str, nonce: bytes, public_key: bytes, gpu: bytes) -> bytes:
        """Report data of ``role``: who it is for, and all that was said before it, go in."""
        return report_data(
            DOMAIN,
            role,
            nonce=nonce,
            job_id=self._job_id,
            public_key=public_key,
            context=hashlib.sha384(length_prefixed(peer.encode(), *self._messages)).digest(),
            gpu_evidence_digest=hashlib.sha256(gpu).digest() if gpu else b"",
        )

    def _prove(
        self, role: str, peer: str, nonce: bytes, public_key: bytes
    ) -> tuple[Evidence, bytes]:
        """Own evidence for the peer, over its nonce, and the report data it was made over."""
        gpu = self._attester.collect_gpu(gpu_nonce(role, nonce, self._job_id, public_key))
        data = self._bind(role, peer, nonce, public_key, gpu)
        return replace(self._attester.collect(data), gpu=gpu), data

    def _appraise(self, role: str, own: str, raw: bytes, public_key: bytes) -> tuple[Claims, bytes]:
        """Verify the peer's evidence, made for ``own``, over the own nonce."""
        evidence = Evidence.decode(raw)
        data = self._bind(role, own, self._nonce, public_key, evidence.gpu)
        claims = verify_party(
            self._verifier,
            evidence,
            report_data=data,
            gpu_nonce=gpu_nonce(role, self._nonce, self._job_id, public_key),
            policy=self._policy,
            at=self._clock(),
        )
        return claims, data

    def _establish(
        self, own: str, peer: str, shares: tuple[bytes, bytes], sealed: bytes, claims: Claims
    ) -> tuple[Established, bytes]:
        """Sessions and confirmation code from ``(k_s, k_c)`` and all messages."""
        transcript = hashlib.sha384(length_prefixed(*self._messages, sealed)).digest()
        info = length_prefixed(b"sealtune/channel/v2", self._job_id, self._site.encode())
        keys = HKDF(SHA384(), 96, salt=transcript, info=info).derive(b"".join(shares))
        secret = {SERVER: keys[:32], client_role(self._site): keys[32:64]}
        outgoing = SealedSession(
            secret[own], job_id=self._job_id, sender=own, receiver=peer, mode="seal"
        )
        incoming = SealedSession(
            secret[peer], job_id=self._job_id, sender=peer, receiver=own, mode="open"
        )
        confirmation = hmac.digest(keys[64:], transcript, "sha384")
        return Established(outgoing, incoming, claims, transcript), confirmation


def message(kind: str, body: bytes = b"", **fields: bytes) -> bytes:
    """A message with these byte fields, in hex."""
    meta: dict[str, Any] = {name: value.hex() for name, value in fields.items()}
    return frames.encode(frames.Frame(kind, {"version": VERSION, **meta}, body))


def parse(message: bytes, kind: str, **sizes: int) -> tuple[bytes, bytes, bytes]:
    """The two byte fields of a message with the given sizes, in that order, and its body."""
    frame = frames.decode(message, max_body=MAX_EVIDENCE)
    if frame.kind != kind:
        raise FrameError(f"handshake message {frame.kind[:40]!r} where {kind!r} was expected")
    if frame.meta.get("version") != VERSION or set(frame.meta) != {"version", *sizes}:
        raise FrameError(f"{kind} message of another version, or with other fields")
    first, second = (_unhex(frame.meta[name], size, name) for name, size in sizes.items())
    return first, second, bytes(frame.body)


def _unhex(value: object, size: int, name: str) -> bytes:
    """Exactly ``size`` bytes from lower-case hex: one spelling only, so no message has a twin."""
    try:
        raw = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != size or raw.hex() != value:
        raise FrameError(f"handshake field {name} is not {size} bytes in lower-case hex")
    return raw
