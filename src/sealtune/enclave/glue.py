"""The server enclave's conversation with the glue, over its Unix socket.

Trust domain: server enclave. The glue is untrusted.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from sealtune import frames
from sealtune.enclave.events import Emit
from sealtune.enclave.server_program import ServerProgram
from sealtune.enclave.serving import listening
from sealtune.errors import FrameError, SealtuneError
from sealtune.frames import Frame


def serve_until_done(path: Path, program: ServerProgram, ready: Emit) -> None:
    """Listen on ``path`` and answer one glue after another until the program is done.

    Raises:
        SealtuneError: the job cannot go on; the glue has been told.
        StorageError: the socket cannot be made.
    """
    with listening(path) as listener:
        ready("ready")
        done = False
        while not done:
            sock, _ = listener.accept()
            with sock:
                done = serve(sock, program)


def serve(sock: socket.socket, program: ServerProgram) -> bool:
    """Answer one glue connection; whether the job is done.

    Raises:
        SealtuneError: the job cannot go on; the glue has been told.
    """
    while True:
        try:
            question = frames.receive(sock, max_body=program.max_message)
        except (EOFError, OSError, FrameError):
            return False  # the glue went away or talks nonsense: wait for another
        try:
            answer = _answer(question, program)
        except FrameError as error:  # the glue's fault, not the job's
            answer = Frame("failed", {"message": error.message})
        except SealtuneError as error:
            with contextlib.suppress(OSError):
                frames.send(sock, Frame("failed", {"message": error.message}))
            raise
        try:
            frames.send(sock, answer)
        except OSError:
            return answer.kind == "done"  # the glue hung up: another one may come
        if answer.kind == "done":
            return True


def _answer(question: Frame, program: ServerProgram) -> Frame:
    site = question.meta.get("site")
    if question.kind == "reply" and isinstance(site, str):
        program.reply(site, bytes(question.body))
        return Frame("ok")
    if question.kind == "absent" and isinstance(site, str):
        program.absent(site, str(question.meta.get("reason", "no reason given")))
        return Frame("ok")
    if question.kind != "next":
        raise FrameError(f"the glue asked {question.kind[:40]!r}")
    outgoing = program.next()
    if outgoing is None:
        return Frame("done")
    meta = {
        "to": {s: len(b) for s, b in outgoing.items()},
        "deadline": program.deadline,
        "limit": program.max_message,
    }
    return Frame("send", meta, b"".join(outgoing.values()))
