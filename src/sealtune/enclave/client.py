"""``python -m sealtune.enclave.client CONFIG.json``: a site's enclave process.

Checks the job for itself, loads its site's data and the model, and answers messages that the glue
delivers, one connection each.

Trust domain: client enclave. The glue is untrusted.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

from sealtune import frames
from sealtune.enclave.client_program import MAX_MESSAGE, SiteProgram
from sealtune.enclave.config import read_config
from sealtune.enclave.events import EventLines, run_program
from sealtune.enclave.serving import listening
from sealtune.enclave.site_trainer import SiteTrainer
from sealtune.enclave.trust import trust_for
from sealtune.errors import (
    AttestationError,
    ChannelError,
    ConfigError,
    FrameError,
    OffloadError,
    Problem,
    SealtuneError,
)
from sealtune.frames import Frame
from sealtune.job.resolved import read_resolved
from sealtune.model.resolve import check_resolved
from sealtune.offload.session import OffloadSession

_PATIENCE = 120.0  # seconds that the accelerator, started with us, may take to listen


def serve(sock: socket.socket, program: SiteProgram, *, spare: bool) -> None:
    """Answer one delivery.

    Args:
        spare: the job can go on without this site.

    Raises:
        SealtuneError: the site's own work failed; the glue has been told.
    """
    try:
        question = frames.receive(sock, max_body=MAX_MESSAGE)
        if question.kind != "deliver":
            raise FrameError(f"the glue said {question.kind[:40]!r}")
    except (EOFError, OSError, FrameError):
        return  # the glue went away or talks nonsense: only this connection ends
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
    _tell(sock, answer)


def _tell(sock: socket.socket, answer: Frame) -> None:
    with contextlib.suppress(OSError):  # the glue has gone: the server learns it from the engine
        frames.send(sock, answer)


def work(events: EventLines) -> None:
    """The whole life of a site's enclave."""
    config = read_config(Path(sys.argv[1]), "client")
    resolved = read_resolved(config.job)
    site = config.site or ""
    if site not in resolved.job.sites.names:
        raise ConfigError(str(config.job), [Problem("sites.names", f"there is no site '{site}'")])
    trust = trust_for(resolved)
    check_resolved(resolved)
    with OffloadSession.connect(
        config.accelerator,
        resolved.plan,
        integrity_bits=resolved.job.protection.integrity_bits,
        owner=f"{resolved.job_id}/{site}",
        patience=_PATIENCE,
    ) as session:
        worker = SiteTrainer(resolved, site, session, config.run_dir, events)
        program = SiteProgram(bytes.fromhex(resolved.job_id), site, trust, worker, events)
        spare = resolved.job.quorum < len(resolved.job.sites.names)
        with listening(config.socket) as listener:
            events("ready")
            while True:
                sock, _ = listener.accept()
                with sock:
                    serve(sock, program, spare=spare)


if __name__ == "__main__":
    sys.exit(run_program(work))
