"""TCP ports on the loopback interface.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import errno
import socket

from sealtune.errors import FederationError, PortInUseError

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that is free right now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def check_port(port: int) -> None:
    """Make sure that the user's port can be listened on.

    Raises:
        PortInUseError: somebody does so already.
        FederationError: it cannot be, for another reason (such as a port below 1024).
    """
    with socket.socket() as sock:
        # As servers do: a connection of an earlier run in TIME_WAIT is nobody.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"port {port} on {HOST} is in use by another program",
                    hint="give another one with --port, or leave it out to have one chosen",
                ) from error
            raise FederationError(
                f"cannot listen on port {port} of {HOST}: {error.strerror}",
                hint="give another one with --port, or leave it out to have one chosen",
            ) from error
