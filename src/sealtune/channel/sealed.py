"""Sealed sessions: one direction between two parties of a job, message after message.

    outgoing = SealedSession(secret, job_id=j, sender="server", receiver="client:a", mode="seal")
    incoming = SealedSession(secret, job_id=j, sender="server", receiver="client:a", mode="open")
    incoming.open(outgoing.seal(b"hello", round=1), round=1)

Guarantees: a message opens once, in its place, in its direction, in its round, unaltered. A message
that is refused leaves the session as it was, so garbage from the network does no harm. Rounds
never go back. What a session cannot do is skip: after a message was lost for good, both sides make
a new handshake.

Causes of `SealError`: bits flipped, cut short, something appended, replayed, reordered, a message
left out, another job, sender, receiver or round, and anything else beside the message.

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

from sealtune.channel import stream
from sealtune.channel.stream import (
    DEFAULT_CHUNK,
    DIGEST_SIZE,
    SALT_SIZE,
    SECRET_SIZE,
    Buffer,
    Header,
)
from sealtune.errors import SealError
from sealtune.frames import length_prefixed

# What a party that was started anew answers to a message of a channel that it does not have. It is
# not sealed, so anybody can say it: all that it brings about is a new handshake.
NO_CHANNEL = b"sealtune: no channel"


class SealedSession:
    """One direction of a sealed channel. Not safe for use by several threads at once.

    Args:
        secret: 32 bytes for this direction alone.
        job_id: SHA-384 of the job.
        sender: name of the party that seals, such as "server" or "client:<site>".
        receiver: name of the party that opens.
        mode: which of the two this object is for.
        chunk_size: plaintext bytes per chunk when sealing; an opener follows the message.
        sequence: number of the first message, to go on with a chain kept elsewhere.
        previous: digest of the message before that (48 bytes).
        round: no message of an earlier round is taken.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        job_id: bytes,
        sender: str,
        receiver: str,
        mode: Literal["seal", "open"],
        chunk_size: int = DEFAULT_CHUNK,
        sequence: int = 0,
        previous: bytes = bytes(DIGEST_SIZE),
        round: int = 0,
    ) -> None:
        if len(secret) != SECRET_SIZE or len(previous) != DIGEST_SIZE:
            raise SealError("a session needs a secret of 32 and a digest of 48 bytes")
        context = length_prefixed(
            b"sealtune/session/v1", job_id, sender.encode(), receiver.encode()
        )
        self._secret = secret
        self._binding = hashlib.sha384(context).digest()
        self._mode = mode
        self._chunk_size = chunk_size
        self._names = f"{sender} to {receiver}"
        self.sequence = sequence  # number of the next message
        self.previous = previous  # digest of the last message
        self.round = round  # round of the last message

    def seal(self, plaintext: Buffer, round: int, *, beside: Buffer = b"") -> bytes:
        """Seal one message of a round.

        Args:
            beside: what travels with the message, and is needed unaltered to open it.
        """
        if self._mode != "seal":
            raise SealError(f"this session only opens messages ({self._names})")
        if round < self.round:
            raise SealError(f"round {round} comes after round {self.round}")
        salt = secrets.token_bytes(SALT_SIZE)
        binding = self._bound_to(beside)
        header = Header(self._chunk_size, self.sequence, round, binding, self.previous, salt)
        sealed, digest = stream.seal(self._secret, header, _flat(plaintext))
        self._advance(header, digest)
        return sealed

    def open(self, message: Buffer, round: int, *, beside: Buffer = b"") -> bytes:
        """Open the next message, which must be of this round.

        Args:
            beside: as in ``seal``.

        Raises:
            SealError: see the module's list; nothing of the message is returned.
        """
        sealed = _flat(message)
        header = self._admit(sealed, round, self._bound_to(beside))
        plain, digest = stream.unseal(self._secret, header, sealed)
        self._advance(header, digest)
        return plain

    def _bound_to(self, beside: Buffer) -> bytes:
        """The binding of a message with something beside it."""
        if not len(beside):
            return self._binding
        return hashlib.sha384(self._binding + hashlib.sha384(beside).digest()).digest()

    def _admit(self, sealed: memoryview, round_: int, binding: bytes) -> Header:
        """Refuse what is not the next message. The header proves itself when the chunks open."""
        if self._mode != "open":
            raise SealError(f"this session only seals messages ({self._names})")
        header = Header.unpack(sealed)
        if header.binding != binding:
            raise SealError(
                f"message of another job, sender or receiver (expected {self._names}), or what "
                "came beside it was altered"
            )
        if header.sequence < self.sequence:
            raise SealError(
                f"message {header.sequence} ({self._names}) was already opened: replayed"
            )
        if header.sequence > self.sequence:
            raise SealError(
                f"message {header.sequence} ({self._names}) came before message {self.sequence}",
                hint="if that message is lost for good, make a new handshake",
            )
        if header.previous != self.previous:
            raise SealError(f"message {header.sequence} ({self._names}) follows another history")
        if header.round != round_:
            raise SealError(f"message of round {header.round} ({self._names}) in round {round_}")
        if header.round < self.round:
            raise SealError(f"round {header.round} comes after round {self.round}")
        return header

    def _advance(self, header: Header, digest: bytes) -> None:
        self.sequence, self.previous, self.round = header.sequence + 1, digest, header.round


def message_round(message: Buffer) -> int:
    """The round that a sealed message claims; not proved before the message was opened."""
    return Header.unpack(_flat(message)).round


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
