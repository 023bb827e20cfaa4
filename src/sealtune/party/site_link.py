"""The server enclave's channel to one site: first the handshake, then sealed messages.

Trust domain: server enclave.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from sealtune import frames
from sealtune.channel.handshake import Established
from sealtune.channel.sealed import SealedSession
from sealtune.channel.server import ServerHandshake
from sealtune.channel.shared import attach, is_short
from sealtune.errors import ChannelError, FrameError, RollbackError
from sealtune.frames import Frame
from sealtune.party.events import Emit, emit_attested
from sealtune.party.history import REFUSED, History, Stated
from sealtune.party.trust import Trust


class SiteLink:
    """Bytes for one site, and from it.

    A link that lost a message is broken: sealed messages follow each other in a chain. ``drop`` it,
    and the next ``handshake_message`` starts afresh.

    Args:
        site: its name.
        job_id: 48 bytes.
        trust: own evidence, and what is accepted of the site.
        emit: told when the site has been attested.
        history: whose head each question states; None: nobody follows it.
    """

    def __init__(
        self, site: str, job_id: bytes, trust: Trust, emit: Emit, history: History | None
    ) -> None:
        self.site = site
        self._job_id = job_id
        self._trust = trust
        self._emit = emit
        self._handshake: ServerHandshake | None = None
        self._hello: bytes | None = None  # the server-hello that is to be sent next
        self._channel: Established | None = None
        self._history = history
        self._told = -1  # the last round whose head went through the channel

    @property
    def open(self) -> bool:
        """Whether sealed messages can be sent."""
        return self._channel is not None

    def drop(self) -> None:
        """Forget the channel and any handshake."""
        self._handshake = self._hello = self._channel = None
        self._told = -1

    def handshake_message(self) -> bytes:
        """The next handshake message to the site."""
        if self._handshake is None or self._hello is None:
            self._handshake = ServerHandshake(
                self._job_id, self.site, self._trust.attester, self._trust.verifier,
                self._trust.policy,
            )  # fmt: skip
            return self._handshake.challenge()
        return self._hello

    def on_handshake_reply(self, body: bytes) -> None:
        """Take the site's answer to the last handshake message.

        Raises:
            ChannelError, AttestationError: the site was refused; call ``drop``.
        """
        if self._handshake is None:
            raise FrameError("an answer to a handshake that was not begun")
        if self._hello is None:
            self._hello = self._handshake.on_hello(body)
            return
        self._channel = self._handshake.on_client_key(body)
        self._handshake = self._hello = None
        claims = self._channel.peer
        job_id = self._job_id.hex()
        emit_attested(self._emit, claims, who=self.site, by="server", job_id=job_id)

    def seal(self, frame: Frame, round: int, part: bytes) -> bytes:
        """A sealed message to the site, with the head of the server's history.

        Args:
            part: what several sites get alike; it is to follow if it has this message's body.
        """
        if self._history is not None:
            told = self._history.stated(self._told)
            frame = replace(frame, meta={**frame.meta, "head": told.fields})
            self._told = told.head.round
        sealed = partial(self._session("outgoing").seal, frames.encode(frame), round)
        return attach(sealed(beside=part)) if is_short(frame) else sealed()

    def unseal(self, body: bytes, round: int) -> bytes:
        """What the site sealed; whether it is a message is not looked at.

        Raises:
            SealError: altered, out of order, or of another round; call ``drop``.
        """
        return self._session("incoming").open(body, round)

    def check_refusal(self, answer: Frame) -> None:
        """Hear a site that does not follow this server.

        Raises:
            RollbackError: it proves that this enclave has been at another state.
            ChannelError: it refuses, and proves nothing.
        """
        if self._history is None or answer.kind != REFUSED:
            return
        seen = Stated.read(answer.meta.get("seen"))
        said = f"{self.site} has seen what came after round {seen.head.round} of this job"
        if self._history.disproves(seen):
            raise RollbackError(
                f"{said}, which is none of this server's states, the last of which is after round "
                f"{self._history.head.round}: an older checkpoint was put back, or there is a "
                "second server",
                hint="put the newest checkpoint back, or build and sign a new job",
            )
        raise ChannelError(f"{said}, and does not follow this server")

    def _session(self, which: str) -> SealedSession:
        if self._channel is None:
            raise FrameError(f"there is no channel to {self.site} yet")
        session: SealedSession = getattr(self._channel, which)
        return session
