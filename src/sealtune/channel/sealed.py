"""Sealed sessions: one direction between two parties of a job, message after message.

    outgoing = SealedSession(secret, job_id=j, sender="server", receiver="client:a", mode="seal")
    incoming = SealedSession(secret, job_id=j, sender="server", receiver="client:a", mode="open")
    incoming.open(outgoing.seal(b"hello", round=1), round=1)

Guarantees: a message opens once, in its place, in its direction, in its round, unaltered. A message
that is refused leaves the session as it was, so garbage from the network does no harm. Rounds
never go back. What a session cannot do is skip: after a message was lost for good, both sides make
a new handshake.

Causes of `SealError`: bits flipped, cut short, something appended, replayed, reordered, a message
left out, another job, sender, receiver or round.

In memory: `seal`, `open` (or `seal_into`, `open_into` for buffers of the caller). Larger than
memory: `seal_chunks`, `open_chunks`, `seal_stream`, `open_stream`, with two chunks in memory.

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from typing import Literal, Protocol

from sealtune.attest.evidence import length_prefixed
from sealtune.channel.stream import (
    DEFAULT_CHUNK,
    DIGEST_SIZE,
    HEADER_SIZE,
    SALT_SIZE,
    SECRET_SIZE,
    TAG,
    Buffer,
    ChunkOpener,
    ChunkSealer,
    Header,
    plain_size,
    sealed_size,
)
from sealtune.errors import SealError


class Source(Protocol):
    """Where bytes come from: an open file, a socket file, `io.BytesIO`."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the start of ``buffer``; 0 at the end."""


class Sink(Protocol):
    """Where bytes go to."""

    def write(self, data: memoryview, /) -> object:
        """Write all of ``data``."""


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

    # ---- whole messages -------------------------------------------------------------------

    def seal(self, plaintext: Buffer, round: int) -> bytes:
        """Seal one message of a round."""
        plain = _flat(plaintext)
        out = bytearray(sealed_size(len(plain), self._chunk_size))
        self.seal_into(plain, out, round)
        return bytes(out)

    def seal_into(self, plaintext: Buffer, out: bytearray | memoryview, round: int) -> int:
        """Seal one message into a buffer of exactly `sealed_size` bytes (no allocation)."""
        plain, target = _flat(plaintext), memoryview(out)
        size = self._chunk_size
        if len(target) != sealed_size(len(plain), size):
            raise SealError(f"output buffer has {len(target)} bytes, not sealed_size(...)")
        sealer = self._sealer(round)
        target[:HEADER_SIZE] = sealer.header.pack()
        start, end = 0, HEADER_SIZE
        while not sealer.finished:
            part = plain[start : start + size]
            start += len(part)
            box = target[end : end + len(part) + TAG]
            end += sealer.seal_into(part, box, last=start == len(plain))
        self._commit(sealer)
        return end

    def open(self, message: Buffer, round: int) -> bytes:
        """Open the next message, which must be of this round.

        Raises:
            SealError: see the module's list; nothing of the message is returned.
        """
        sealed = _flat(message)
        header = self._admit(sealed, round)
        out = bytearray(plain_size(len(sealed), header.chunk_size))
        self._open_into(header, sealed, memoryview(out))
        return bytes(out)

    def open_later(self, message: Buffer) -> tuple[int, bytes]:
        """Open the next message, of any round that is not before the last one.

        Returns:
            The round, and the plaintext.
        """
        round_ = Header.unpack(_flat(message)).round
        return round_, self.open(message, round_)

    def open_into(self, message: Buffer, out: bytearray | memoryview, round: int) -> int:
        """Open into a buffer of the exact size of the plaintext; undefined after an error."""
        sealed, target = _flat(message), memoryview(out)
        header = self._admit(sealed, round)
        if len(target) != plain_size(len(sealed), header.chunk_size):
            raise SealError(f"output buffer has {len(target)} bytes, the message another number")
        return self._open_into(header, sealed, target)

    def _open_into(self, header: Header, sealed: memoryview, out: memoryview) -> int:
        opener = ChunkOpener(self._secret, header)
        step = header.chunk_size + TAG
        start, end = HEADER_SIZE, 0
        while not opener.finished:
            box = sealed[start : start + step]
            start += len(box)
            target = out[end : end + len(box) - TAG]
            end += opener.open_into(box, target, last=start == len(sealed))
        self._commit(opener)
        return end

    # ---- streams --------------------------------------------------------------------------

    def seal_chunks(self, source: Source, round: int) -> Iterator[memoryview]:
        """Seal everything that ``source`` holds as one message.

        Yields:
            The header, then each sealed chunk; a view is valid until the next one is asked for.
        """
        sealer = self._sealer(round)
        yield memoryview(sealer.header.pack())
        box = memoryview(bytearray(self._chunk_size + TAG))
        for plain, last in _with_last(source, self._chunk_size):
            written = sealer.seal_into(plain, box[: len(plain) + TAG], last=last)
            yield box[:written]
        self._commit(sealer)

    def open_chunks(self, source: Source, round: int) -> Iterator[memoryview]:
        """Open one message that fills ``source`` to its end.

        Every chunk that comes out is genuine, but only the end of the iteration shows that none is
        missing: act on nothing before it. A view is valid until the next one is asked for.

        Raises:
            SealError: see the module's list.
        """
        head = memoryview(bytearray(HEADER_SIZE))
        header = self._admit(head[: _fill(source, head)], round)
        opener = ChunkOpener(self._secret, header)
        plain = memoryview(bytearray(header.chunk_size))
        for box, last in _with_last(source, header.chunk_size + TAG):
            written = opener.open_into(box, plain[: max(0, len(box) - TAG)], last=last)
            yield plain[:written]
        self._commit(opener)

    def seal_stream(self, source: Source, sink: Sink, round: int) -> int:
        """`seal_chunks` into a sink; returns the number of bytes written."""
        return _drain(self.seal_chunks(source, round), sink)

    def open_stream(self, source: Source, sink: Sink, round: int) -> int:
        """`open_chunks` into a sink, which must be thrown away if this raises."""
        return _drain(self.open_chunks(source, round), sink)

    # ---- the chain ------------------------------------------------------------------------

    def _sealer(self, round_: int) -> ChunkSealer:
        if self._mode != "seal":
            raise SealError(f"this session only opens messages ({self._names})")
        if round_ < self.round:
            raise SealError(f"round {round_} comes after round {self.round}")
        salt = secrets.token_bytes(SALT_SIZE)
        header = Header(self._binding, self.sequence, round_, self.previous, salt, self._chunk_size)
        return ChunkSealer(self._secret, header)

    def _admit(self, sealed: memoryview, round_: int) -> Header:
        """Refuse what is not the next message. The header proves itself when the chunks open."""
        if self._mode != "open":
            raise SealError(f"this session only seals messages ({self._names})")
        header = Header.unpack(sealed)
        if header.binding != self._binding:
            raise SealError(f"message of another job, sender or receiver (expected {self._names})")
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

    def _commit(self, chunks: ChunkSealer | ChunkOpener) -> None:
        # Two iterators over one session: only the one that ends first counts.
        if chunks.header.sequence != self.sequence or chunks.header.previous != self.previous:
            raise SealError("the session moved on while this message was being worked on")
        self.previous = chunks.digest
        self.sequence += 1
        self.round = chunks.header.round


def message_round(message: Buffer) -> int:
    """The round that a sealed message claims; not proved before the message was opened."""
    return Header.unpack(_flat(message)).round


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _fill(source: Source, buffer: memoryview) -> int:
    """Read until ``buffer`` is full or the source ends; sources may return less than asked."""
    done = 0
    while done < len(buffer):
        got = source.readinto(buffer[done:])
        if not got:
            break
        done += got
    return done


def _with_last(source: Source, size: int) -> Iterator[tuple[memoryview, bool]]:
    """Pieces of ``size`` bytes and whether each is the last; always at least one (maybe empty)."""
    here, ahead = memoryview(bytearray(size)), memoryview(bytearray(size))
    have = _fill(source, here)
    while True:
        more = _fill(source, ahead) if have == size else 0
        yield here[:have], more == 0
        if more == 0:
            return
        here, ahead, have = ahead, here, more


def _drain(chunks: Iterator[memoryview], sink: Sink) -> int:
    total = 0
    for chunk in chunks:
        sink.write(chunk)
        total += len(chunk)
    return total
