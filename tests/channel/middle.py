"""A process between client and server, with every byte in its hands.

    python -m tests.channel.middle MODE LISTEN_SOCKET SERVER_SOCKET

Modes: ``relay`` passes all on; ``swap-key`` puts its own public keys into both hellos; ``replay``
answers the second client with what it recorded of the first; ``other-job`` presents the server's
challenge to a client of another job.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from sealtune import frames
from sealtune.channel.hpke import KeyPair
from tests.channel.parties import OTHER_JOB

OWN = KeyPair.generate()


def alter(mode: str, frame: frames.Frame, recorded: dict[str, frames.Frame]) -> frames.Frame:
    """What is passed on instead of ``frame``."""
    meta = dict(frame.meta)
    if mode == "swap-key" and "public_key" in meta:
        meta["public_key"] = OWN.public_bytes.hex()
    if mode == "other-job" and frame.kind == "challenge":
        meta["job_id"] = OTHER_JOB.hex()
    if mode.startswith("replay"):
        before = recorded.setdefault(frame.kind, frame)
        if frame.kind == mode.removeprefix("replay-"):
            return before
    return frames.Frame(frame.kind, meta, frame.body)


def serve(mode: str, listen: str, target: str) -> None:
    """Handle connections one after another, forever."""
    recorded: dict[str, frames.Frame] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(listen)
        listener.listen()
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(EOFError):
                server.connect(target)
                for source, sink in ((server, client), (client, server)) * 2:
                    frames.send(sink, alter(mode, frames.receive(source), recorded))


if __name__ == "__main__":
    serve(*sys.argv[1:])
