"""A site's side of the handshake (``sealtune.channel.handshake``).

Trust domain: client enclave; data owner (split).
"""

from __future__ import annotations

import secrets

from sealtune import frames
from sealtune.attest.evidence import MAX_EVIDENCE, NONCE_SIZE
from sealtune.channel import handshake
from sealtune.channel.handshake import (
    JOB_ID_SIZE,
    SEALED_SHARE,
    SERVER,
    SHARE_SIZE,
    Established,
    Handshake,
    client_role,
    parse,
)
from sealtune.channel.hpke import PUBLIC_SIZE, KeyPair, seal_key
from sealtune.errors import ChannelError, FrameError


class ClientHandshake(Handshake):
    """A client enclave's side. Arguments as for `ServerHandshake`; ``site`` is its own name."""

    def on_challenge(self, message: bytes) -> bytes:
        """Take message 1 and return message 2, with evidence over the server's nonce."""
        with self._step(0):
            nonce, job_id, rest = parse(message, "challenge", nonce=NONCE_SIZE, job_id=JOB_ID_SIZE)
            if rest:
                raise FrameError("challenge message has a body")
            if job_id != self._job_id:
                raise ChannelError(
                    f"the server asks for job {job_id.hex()[:16]}…, this site takes part in "
                    f"{self._job_id.hex()[:16]}…",
                    hint="all parties must start from the same job file",
                )
            self._messages.append(message)
            self._pair = KeyPair.generate()
            own = self._pair.public_bytes
            evidence, self._bound = self._prove(client_role(self._site), SERVER, nonce, own)
            return self._say("client-hello", evidence.encode(), nonce=self._nonce, public_key=own)

    def on_server_hello(self, message: bytes) -> tuple[bytes, Established]:
        """Take message 3, verify the server, and return message 4 and the channel.

        That the server has the channel too is known once a message of it opens.

        Raises:
            FrameError: malformed.
            AttestationError: the server's evidence was refused; no key was released.
            KeyReleaseError: the server's half does not open.
        """
        with self._step(1):
            key, sealed, raw = parse(
                message, "server-hello", public_key=PUBLIC_SIZE, sealed_key=SEALED_SHARE
            )
            claims, bound = self._appraise(SERVER, client_role(self._site), raw, key)
            share = self._pair.open(
                sealed, job_id=self._job_id, report_data=self._bound, purpose="server-share"
            )
            own = secrets.token_bytes(SHARE_SIZE)
            answer = seal_key(
                key, own, job_id=self._job_id, report_data=bound, purpose="client-share"
            )
            self._messages.append(message)
            established, confirmation = self._establish(
                client_role(self._site), SERVER, (share, own), answer, claims
            )
            del self._pair
            return handshake.message(
                "client-key", sealed_key=answer, confirmation=confirmation
            ), established


def is_challenge(message: bytes) -> bool:
    """Whether a message starts a handshake (then a client enclave makes a new `ClientHandshake`).

    Anyone on the network can send one: keep the old channel until the new handshake succeeds.
    """
    try:
        return frames.decode(message, max_body=MAX_EVIDENCE).kind == "challenge"
    except FrameError:
        return False
