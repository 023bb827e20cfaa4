"""The Unix socket between an enclave and the relay or node, from the enclave's side.

Trust domain: every enclave. The peer is untrusted: what it sends is checked, sealed or opaque.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from sealtune.errors import StorageError


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket that only this user can reach; removed at the end.

    Raises:
        StorageError: the path is too long, taken, or not writable.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(str(path))
            path.chmod(0o600)
            sock.listen()
        except OSError as error:
            raise StorageError(
                f"cannot listen on {path}: {error.strerror or error}",
                hint="socket paths may have 107 bytes; is another run using this folder?",
            ) from error
        yield sock
    finally:
        sock.close()
        path.unlink(missing_ok=True)
