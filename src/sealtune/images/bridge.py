"""Carries bytes between two stream sockets, as they come.

    python -m sealtune.images.bridge ADDRESS     between stdin, a socket, and ADDRESS

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator

from sealtune.sockets import connect, listening

_PIECE = 1 << 16  # bytes


@contextlib.contextmanager
def bridge(outside: str, inside: str) -> Iterator[None]:
    """Listen at ``outside``, and connect whoever comes with ``inside``, for as long as the block
    runs.

    Raises:
        StorageError: nobody can listen there.
    """
    with listening(outside) as listener:
        threading.Thread(target=_accept, args=(listener, inside), daemon=True).start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, inside: str) -> None:
    with contextlib.suppress(OSError):  # the block has ended
        while True:
            outer, _ = listener.accept()
            try:
                inner = connect(inside)
            except OSError:  # the machine is not there yet, or no longer: whoever came tries again
                outer.close()
                continue
            threading.Thread(target=join, args=(outer, inner), daemon=True).start()


def join(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both sides have ended."""
    with one, other:
        back = threading.Thread(target=_carry, args=(other, one), daemon=True)
        back.start()
        _carry(one, other)
        back.join()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    for sock, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            sock.shutdown(how)


if __name__ == "__main__":
    join(socket.socket(fileno=sys.stdin.fileno()), connect(sys.argv[1]))
