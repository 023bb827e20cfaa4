"""The server enclave's conversation with the network engine's relay, over its socket.

Trust domain: server enclave. The relay is untrusted.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from time import monotonic

from sealtune import frames
from sealtune.errors import FrameError, SealtuneError
from sealtune.frames import Frame
from sealtune.job.events import Ready
from sealtune.party.driver import Driver
from sealtune.party.events import Emit
from sealtune.sockets import listening

_FAREWELL = 120.0  # seconds that the last relay has to hear that the job is done


def serve_until_done(address: str, program: Driver, ready: Emit) -> None:
    """Listen at ``address`` and answer one relay after another until the program is done.

    Raises:
        SealtuneError: the job cannot go on; the relay has been told.
        StorageError: the socket cannot be made.
    """
    with listening(address) as listener:
        ready(Ready())
        end = End()
        while not end.heard:
            listener.settimeout(end.left)
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                return  # the job is done, whether or not anybody has heard
            with sock:
                serve(sock, program, end)


@dataclass
class End:
    """How far the end has come: a relay that is lost before it heard of it may come back.

    Attributes:
        limit: until when, once the job is done.
        heard: a relay said that it heard so.
    """

    limit: float | None = None
    heard: bool = False

    @property
    def left(self) -> float | None:
        """Seconds to wait for a relay; None: for ever."""
        return None if self.limit is None else max(0.01, self.limit - monotonic())


def serve(sock: socket.socket, program: Driver, end: End) -> None:
    """Answer one relay connection, until it ends or the relay has heard that the job is done.

    Raises:
        SealtuneError: the job cannot go on; the relay has been told.
    """
    while True:
        sock.settimeout(end.left)
        try:
            question = frames.receive(sock, max_body=program.max_message)
        except (EOFError, OSError, FrameError):
            return  # the relay went away or talks nonsense: wait for another
        if question.kind == "bye" and end.limit is not None:
            end.heard = True
            return
        try:
            answer = _answer(question, program)
        except FrameError as error:  # the relay's fault, not the job's
            answer = Frame("failed", {"message": error.message})
        except SealtuneError as error:
            with contextlib.suppress(OSError):
                frames.send(sock, Frame("failed", {"message": error.message}))
            raise
        if answer.kind == "done" and end.limit is None:
            end.limit = monotonic() + _FAREWELL
        try:
            frames.send(sock, answer)
        except OSError:
            return  # the relay hung up: another one may come


def _answer(question: Frame, program: Driver) -> Frame:
    site = question.meta.get("site")
    if question.kind == "reply" and isinstance(site, str):
        program.reply(site, bytes(question.body))
        return Frame("ok")
    if question.kind == "absent" and isinstance(site, str):
        program.absent(site, str(question.meta.get("reason", "no reason given")))
        return Frame("ok")
    if question.kind != "next":
        raise FrameError(f"the relay asked {question.kind[:40]!r}")
    outgoing = program.next()
    if outgoing is None:
        return Frame("done")
    alike = [site for site in outgoing if site in outgoing.alike]
    own = {site: len(body) for site, body in outgoing.own.items()}
    meta = {
        "to": own,
        "alike": alike,
        "deadline": program.deadline,
        "left": program.left,
        "limit": program.max_message,
    }
    last = outgoing.part if alike else b""  # leaves once, behind what each site has of its own
    return Frame("send", meta, b"".join([*outgoing.own.values(), last]))
