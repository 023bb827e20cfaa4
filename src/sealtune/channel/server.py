"""The server enclave's side of the handshake (``sealtune.channel.handshake``).

Trust domain: server enclave.
"""

from __future__ import annotations

import hmac
import secrets

from sealtune.attest.evidence import NONCE_SIZE
from sealtune.channel.handshake import (
    CONFIRMATION_SIZE,
    SEALED_SHARE,
    SERVER,
    SHARE_SIZE,
    Established,
    Handshake,
    client_role,
    parse,
)
from sealtune.channel.hpke import PUBLIC_SIZE, KeyPair, seal_key
from sealtune.errors import FrameError, KeyReleaseError


class ServerHandshake(Handshake):
    """The server enclave's side towards one site.

    Args:
        job_id: SHA-384 of the job.
        site: the site that is expected at the other end.
        attester: makes this enclave's evidence.
        verifier: appraises the client's evidence.
        policy: what is accepted of the client.
        clock: the time for which evidence is appraised.
    """

    def challenge(self) -> bytes:
        """Message 1: a fresh nonce."""
        with self._step(0):
            return self._say("challenge", nonce=self._nonce, job_id=self._job_id)

    def on_hello(self, message: bytes) -> bytes:
        """Take message 2, verify the client, and return message 3.

        Raises:
            FrameError: malformed.
            AttestationError: the client's evidence was refused; no key was released.
        """
        with self._step(1):
            nonce, key, raw = parse(
                message, "client-hello", nonce=NONCE_SIZE, public_key=PUBLIC_SIZE
            )
            role = client_role(self._site)
            self._claims, bound = self._appraise(role, SERVER, raw, key)
            self._messages.append(message)
            self._share = secrets.token_bytes(SHARE_SIZE)
            sealed = seal_key(
                key, self._share, job_id=self._job_id, report_data=bound, purpose="server-share"
            )
            self._pair = KeyPair.generate()
            own = self._pair.public_bytes
            evidence, self._bound = self._prove(SERVER, role, nonce, own)
            return self._say("server-hello", evidence.encode(), public_key=own, sealed_key=sealed)

    def on_client_key(self, message: bytes) -> Established:
        """Take message 4 and finish.

        Raises:
            FrameError: malformed.
            KeyReleaseError: the client's half does not open, or somebody changed a message.
        """
        with self._step(2):
            sealed, confirmation, rest = parse(
                message, "client-key", sealed_key=SEALED_SHARE, confirmation=CONFIRMATION_SIZE
            )
            if rest:
                raise FrameError("client-key message has a body")
            share = self._pair.open(
                sealed, job_id=self._job_id, report_data=self._bound, purpose="client-share"
            )
            established, expected = self._establish(
                SERVER, client_role(self._site), (self._share, share), sealed, self._claims
            )
            if not hmac.compare_digest(confirmation, expected):
                raise KeyReleaseError(
                    f"the two ends of the handshake with {self._site} saw different messages"
                )
            del self._share, self._pair
            return established
