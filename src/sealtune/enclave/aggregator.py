"""``python -m sealtune.enclave.aggregator CONFIG.json``: the server enclave's process.

Listens on its Unix socket for the glue, which carries sealed bytes to the sites and back.

Trust domain: server enclave. The glue is untrusted.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

from sealtune import frames
from sealtune.enclave.aggregator_program import Aggregator
from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.sealed_state import SealedState
from sealtune.enclave.serving import listening
from sealtune.enclave.trust import trust_for
from sealtune.errors import FrameError, SealtuneError
from sealtune.frames import Frame
from sealtune.job.resolved import read_resolved


def serve(sock: socket.socket, program: Aggregator) -> bool:
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


def _answer(question: Frame, program: Aggregator) -> Frame:
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
    meta = {"to": {s: len(b) for s, b in outgoing.items()}, "deadline": program.deadline}
    return Frame("send", meta, b"".join(outgoing.values()))


def work(events: EventLines) -> None:
    """The whole life of the server enclave."""
    config = read_config(Path(sys.argv[1]), "server")
    resolved = read_resolved(config.job)
    trust = trust_for(resolved)
    state = SealedState(config.run_dir / "state", trust.sealing_key, bytes.fromhex(resolved.job_id))
    program = Aggregator(resolved, trust, state, events, resume=config.resume)
    with listening(config.socket) as listener:
        events("ready")
        done = False
        while not done:
            sock, _ = listener.accept()
            with sock:
                done = serve(sock, program)


if __name__ == "__main__":
    sys.exit(run_program(work))
