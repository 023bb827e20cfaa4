"""Receives the glue's progress, and notices when the glue is gone.

The glue is a process that Flower starts, so it is no child of the launcher. It says its process id
in its first datagram; from then on the kernel tells when it ends.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path

from sealtune.launch.child import Event, Exit, Inbox, parse_event

ROLE = "flower:glue"
_MAX = 1 << 16  # bytes of one datagram


class EventsSocket:
    """Listens until it is closed.

    Args:
        path: the datagram socket to make.
        inbox: where events go, with role ``flower``; the glue's end with role ``flower:glue``.
    """

    def __init__(self, path: Path, inbox: Inbox) -> None:
        self.path = path
        self._inbox = inbox
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._wake, self._closed = os.pipe()
        self._thread = threading.Thread(target=self._listen, daemon=True, name="events")
        self._thread.start()

    def close(self) -> None:
        """End the listening thread."""
        os.close(self._closed)
        self._thread.join(5)
        os.close(self._wake)
        self._sock.close()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        glue = -1
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake in ready:
                break
            if self._sock.fileno() in ready:  # its last words come before its end
                event = parse_event(self._sock.recv(_MAX))
                if event is None:
                    continue
                if event["event"] == "glue" and isinstance(event.get("pid"), int) and glue < 0:
                    glue = self._watch(poll, event["pid"])
                self._inbox.put(Event("flower", event))
            elif glue in ready:
                poll.unregister(glue)
                os.close(glue)
                glue = -1
                self._inbox.put(Exit(ROLE, 0))
        if glue >= 0:
            os.close(glue)

    def _watch(self, poll: select.poll, pid: int) -> int:
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            self._inbox.put(Exit(ROLE, 0))
            return -1
        poll.register(descriptor, select.POLLIN)
        return descriptor
