"""The server enclave's conversation with the network engine's relay, over its socket.

Trust domain: server enclave. The relay is untrusted.
"""

from __future__ import annotations

import contextlib
import socket

from sealtune import frames
from sealtune.errors import FrameError, SealtuneError
from sealtune.frames import Frame
from sealtune.job.events import Ready
from sealtune.party.driver import Driver
from sealtune.party.events import Emit
from sealtune.sockets import listening


def serve_until_done(address: str, program: Driver, ready: Emit) -> None:
    """Listen at ``address`` and answer one relay after another until the program is done.

    Raises:
        SealtuneError: the job cannot go on; the relay has been told.
        StorageError: the socket cannot be made.
    """
    with listening(address) as listener:
        ready(Ready())
        done = False
        while not done:
            sock, _ = listener.accept()
            with sock:
                done = serve(sock, program)


def serve(sock: socket.socket, program: Driver) -> bool:
    """Answer one relay connection; whether the job is done.

    Raises:
        SealtuneError: the job cannot go on; the relay has been told.
    """
    while True:
        try:
            question = frames.receive(sock, max_body=program.max_message)
        except (EOFError, OSError, FrameError):
            return False  # the relay went away or talks nonsense: wait for another
        try:
            answer = _answer(question, program)
        except FrameError as error:  # the relay's fault, not the job's
            answer = Frame("failed", {"message": error.message})
        except SealtuneError as error:
            with contextlib.suppress(OSError):
                frames.send(sock, Frame("failed", {"message": error.message}))
            raise
        try:
            frames.send(sock, answer)
        except OSError:
            return answer.kind == "done"  # the relay hung up: another one may come
        if answer.kind == "done":
            return True


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
    meta = {
        "to": {s: len(b) for s, b in outgoing.items()},
        "deadline": program.deadline,
        "limit": program.max_message,
    }
    return Frame("send", meta, b"".join(outgoing.values()))
