"""A site's conversation with the node: one connection for each message that is delivered.

Trust domain: client enclave (federated), data owner (otherwise). The node is untrusted.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from sealtune import frames
from sealtune.errors import (
    AttestationError,
    ChannelError,
    FrameError,
    OffloadError,
    SealtuneError,
)
from sealtune.frames import Frame
from sealtune.job.events import Ready
from sealtune.party.events import Emit
from sealtune.party.site_program import MAX_MESSAGE, SiteProgram
from sealtune.sockets import listening


def serve_forever(address: str, program: SiteProgram, ready: Emit, *, spare: bool) -> None:
    """Answer deliveries at ``address`` until the process is asked to end.

    Args:
        spare: the job can go on without this site.
    """
    with listening(address) as listener:
        ready(Ready())
        while True:
            sock, _ = listener.accept()
            with sock:
                serve(sock, program, spare=spare)


def serve(sock: socket.socket, program: SiteProgram, *, spare: bool) -> None:
    """Answer one delivery.

    Args:
        spare: the job can go on without this site.

    Raises:
        SealtuneError: the site's own work failed; the node has been told.
    """
    try:
        question = frames.receive(sock, max_body=MAX_MESSAGE)
        if question.kind != "deliver":
            raise FrameError(f"the node said {question.kind[:40]!r}")
    except (EOFError, OSError, FrameError):
        return  # the node went away or talks nonsense: only this connection ends
    try:
        answer = Frame("reply", {}, program.deliver(bytes(question.body)))
    except (ChannelError, AttestationError) as error:
        # somebody on the way interferes: refuse the message, keep the site alive
        print(f"refused a message: {error.message}", file=sys.stderr, flush=True)
        answer = Frame("failed", {"message": error.message})
    except SealtuneError as error:
        told = f"{type(error).__name__}: {error.message}"
        _tell(sock, Frame("failed", {"message": told}))
        # a job that can spare a site tries it again; a lost or lying accelerator is final
        if not spare or isinstance(error, OffloadError):
            raise
        print(f"this round failed: {told}", file=sys.stderr, flush=True)
        return
    except Exception as error:  # its text might quote data
        _tell(sock, Frame("failed", {"message": f"unforeseen {type(error).__name__}"}))
        raise
    _tell(sock, answer)


def _tell(sock: socket.socket, answer: Frame) -> None:
    with contextlib.suppress(OSError):  # the node has gone: the server learns it from the engine
        frames.send(sock, answer)
