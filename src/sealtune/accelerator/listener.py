"""Where enclaves connect to a program that multiplies for them: one thread per connection.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod

from sealtune import sockets
from sealtune.accelerator.engine import Engine


class Listener(ABC):
    """Accepts enclaves, and counts what they send and get.

    Args:
        engine: multiplies.
        address: where to listen.

    Raises:
        StorageError: it cannot listen there.

    Attributes:
        bytes_in, bytes_out: received from enclaves, and sent to them.
    """

    def __init__(self, engine: Engine, address: str) -> None:
        self.engine = engine
        self.bytes_in = 0
        self.bytes_out = 0
        self._lock = threading.Lock()
        self._listener = sockets.listen(address)

    @property
    def port(self) -> int:
        """TCP port that it listens on (0 for a Unix socket)."""
        name = self._listener.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def serve_forever(self) -> None:
        """Accept enclaves until the listener is closed."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        self._listener.close()

    def count(self, received: int, sent: int) -> None:
        """Add to the byte counters."""
        with self._lock:
            self.bytes_in += received
            self.bytes_out += sent

    @abstractmethod
    def _serve(self, sock: socket.socket) -> None:
        """Serve one enclave until it goes, and close ``sock``."""
