"""Progress of the glue, as JSON datagrams to the launcher.

Flower throws a ServerApp's output away, so the glue reports over a Unix datagram socket, to whom
it may concern: nobody listening is no error, and a report never blocks the work.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Events:
    """Sends one JSON object a datagram.

    Args:
        path: the listener's socket, or None to say nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sock.close()

    def __call__(self, event: str, **fields: Any) -> None:
        """Report ``event``."""
        if self._path is None:
            return
        line = json.dumps({"event": event, **fields}).encode()
        with contextlib.suppress(OSError):
            self._sock.sendto(line, str(self._path))

    def hello(self) -> None:
        """Say which process this is, so that its end is noticed."""
        self("glue", pid=os.getpid())
