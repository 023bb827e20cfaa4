"""The relay's second port, where the link of the server enclave comes in from another host.

One link counts: a new one takes the place of what came before it, since that may be dead without
anybody having noticed. Whoever does not show the pinned certificate gets no further than that; of
those who have not shown any yet, the oldest make room for who comes next.

Trust domain: network engine (untrusted), on the coordinator's side.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

from sealtune import sockets
from sealtune.errors import FederationError
from sealtune.federation.pinned_tls import check_peer

_HANDSHAKE = 20.0  # seconds that somebody has to show the certificate
_SHAKING = 32  # who may be about to, at the same time
_QUIET = 60.0  # seconds between two reports of somebody who was turned away


class LinkPort:
    """Connections of the link, one after another.

    Args:
        address: ``tcp:host:port`` to listen on.
        context: of ``pinned_tls``, for this side.
        certificate: the link's (PEM).
        log: told, now and then, of who was turned away.

    Raises:
        StorageError: it cannot listen there.
    """

    def __init__(
        self, address: str, context: ssl.SSLContext, certificate: str, log: Callable[[str], None]
    ) -> None:
        self._context = context
        self._certificate = certificate
        self._log = log
        self._logged = float("-inf")
        self._changed = threading.Condition()
        self._current: ssl.SSLSocket | None = None
        self._next: ssl.SSLSocket | None = None
        self._shaking: dict[ssl.SSLSocket, None] = {}  # in the order in which they came
        self._listener = sockets.listen(address)
        threading.Thread(target=self._accept, daemon=True, name="link port").start()

    def __iter__(self) -> Iterator[socket.socket]:
        """The newest connection, as soon as there is one that was not given out."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next is not None)
                self._current, self._next = self._next, None
                newest = self._current
            if newest is not None:
                yield newest

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                time.sleep(0.1)  # such as too many open files
                continue
            threading.Thread(target=self._welcome, args=(sock,), daemon=True).start()

    def _welcome(self, sock: socket.socket) -> None:
        try:
            with contextlib.ExitStack() as cleanup:
                cleanup.callback(sock.close)
                sock.settimeout(_HANDSHAKE)
                link = self._context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                cleanup.callback(link.close)
                with self._among_shaking(link):
                    link.do_handshake()
                check_peer(link, self._certificate)
                link.settimeout(None)
                cleanup.pop_all()
        except (OSError, ValueError, FederationError) as error:
            self._turned_away(error)
            return
        with self._changed:
            for old in (self._current, self._next):
                if old is not None:
                    _hang_up(old)
            self._next = link
            self._changed.notify()

    @contextlib.contextmanager
    def _among_shaking(self, link: ssl.SSLSocket) -> Iterator[None]:
        """Strangers who say nothing shall not keep the link out: the oldest of them goes."""
        with self._changed:
            self._shaking[link] = None
            if len(self._shaking) > _SHAKING:
                oldest = next(iter(self._shaking))
                del self._shaking[oldest]
                _hang_up(oldest)
        try:
            yield
        finally:
            with self._changed:
                self._shaking.pop(link, None)

    def _turned_away(self, error: Exception) -> None:
        if time.monotonic() - self._logged > _QUIET:  # strangers shall not fill the disk
            self._logged = time.monotonic()
            self._log(f"somebody on the link's port is not the link: {error}")


def _hang_up(link: ssl.SSLSocket) -> None:
    """Wake up whoever waits for it; they close it."""
    with contextlib.suppress(OSError):
        # not the one of SSLSocket, after which it would speak without TLS
        socket.socket.shutdown(link, socket.SHUT_RDWR)
