"""What a site's enclave does: one message in, one message out.

Trust domain: client enclave. Whoever delivers messages is untrusted.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from sealtune import frames
from sealtune.channel.client import ClientHandshake, is_challenge
from sealtune.channel.handshake import Established
from sealtune.channel.sealed import NO_CHANNEL, message_round
from sealtune.channel.shared import detach, restore
from sealtune.channel.stream import Buffer
from sealtune.errors import ChannelError, RollbackError, SealError
from sealtune.frames import Frame
from sealtune.job.events import Refused
from sealtune.party.admit import Admitted
from sealtune.party.events import Emit, emit_attested
from sealtune.party.history import REFUSED
from sealtune.party.trust import SERVER

MAX_MESSAGE = 1 << 31  # bytes


class Worker(Protocol):
    """What answers the server's questions once they are open."""

    def answer(self, question: Frame) -> Frame:
        """Do what is asked and return the answer."""
        ...


class SiteProgram:
    """The channel to the server enclave, and the work behind it.

    The network may deliver a message twice: a repeat of the last one is answered with the same
    bytes and no second training. A program that was started anew says that it has no channel.

    Args:
        admitted: the job, as this site.
        worker: trains and evaluates.
        emit: told when the server has been attested, and when it is refused.
    """

    def __init__(self, admitted: Admitted, worker: Worker, emit: Emit) -> None:
        self._job_id = bytes.fromhex(admitted.job_id)
        self._site = admitted.site
        self._trust = admitted.trust[SERVER]
        self._worker = worker
        self._emit = emit
        self._continuity = admitted.continuity
        self._handshake: ClientHandshake | None = None
        self._channel: Established | None = None
        self._new: Established | None = None  # the server has not shown yet that it has it, too
        self._last: tuple[bytes, bytes] | None = None  # digest of a message, its answer

    def deliver(self, body: bytes) -> bytes:
        """Answer one message of the server enclave.

        Raises:
            ChannelError, AttestationError: the message was refused; the site goes on.
            SealtuneError: the work itself failed.
        """
        digest = hashlib.sha256(body).digest()
        if self._last is None or self._last[0] != digest:
            answer = self._answer(body)
            if answer == NO_CHANNEL:
                return answer  # and the last message stays the last one
            self._last = digest, answer
        return self._last[1]

    def _answer(self, body: bytes) -> bytes:
        if is_challenge(body):
            # anybody can send one: the old channel stays until the new handshake succeeds
            self._handshake = ClientHandshake(
                self._job_id, self._site, self._trust.attester, self._trust.verifier,
                self._trust.policy,
            )  # fmt: skip
            return self._handshake.on_challenge(body)
        if body.startswith(frames.MAGIC):
            return self._on_server_hello(body)
        return self._on_sealed(body)

    def _on_server_hello(self, body: bytes) -> bytes:
        if self._handshake is None:
            return NO_CHANNEL
        handshake, self._handshake = self._handshake, None
        reply, self._new = handshake.on_server_hello(body)
        return reply

    def _on_sealed(self, body: bytes) -> bytes:
        own, part = detach(body)
        round_ = message_round(own)
        if self._channel is None and self._new is None:
            return NO_CHANNEL
        channel, plain = self._open(own, part, round_)
        question = frames.decode(plain, max_body=MAX_MESSAGE)
        if question.meta.get("round") != round_:
            raise ChannelError("a sealed message names two different rounds")
        question = restore(question, part, self._job_id, round_)
        answer = self._refusal(question, round_) or self._worker.answer(question)
        return channel.outgoing.seal(frames.encode(answer), round_)

    def _refusal(self, question: Frame, round_: int) -> Frame | None:
        """What is said to a server enclave that is not where this site has seen it."""
        if self._continuity is None:
            return None
        try:
            self._continuity.follow(question.meta.get("head"))
        except RollbackError as error:
            seen = self._continuity.seen
            self._emit(Refused(message=error.message, hint=error.hint))
            return Frame(REFUSED, {"round": round_, "seen": seen.fields if seen else None})
        return None

    def _open(self, own: Buffer, part: Buffer, round_: int) -> tuple[Established, bytes]:
        """The channel that a message belongs to, and its contents.

        A new channel takes the old one's place when a message of it opens: only then is it known
        that the server, and no third party, was at the other end of the handshake.
        """
        if self._channel is not None:
            try:
                return self._channel, self._channel.incoming.open(own, round_, beside=part)
            except SealError:
                if self._new is None:
                    raise  # otherwise it may be the new channel's first message
        if self._new is None:
            raise ChannelError("a sealed message of a channel that there is not")
        plain = self._new.incoming.open(own, round_, beside=part)
        self._channel, self._new = self._new, None
        claims, job_id = self._channel.peer, self._job_id.hex()
        emit_attested(self._emit, claims, who="server", by=self._site, job_id=job_id)
        return self._channel, plain
