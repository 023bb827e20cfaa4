"""Addresses of stream sockets between sealtune's processes: one way to write, dial and serve them.

    unix:/run/a.sock   tcp:host:port   tcp:[::1]:port   vsock:cid:port   /run/a.sock (as unix:)

Sockets carry no authenticity: what must be secret or genuine is sealed before
(``sealtune.channel``), or the connection is (``federation.link``).

Trust domain: every process. The peer is untrusted.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any, NamedTuple

from sealtune.errors import StorageError

_NUMBER = re.compile(r"[0-9]{1,10}")
_LAST_PORT = 2**16 - 1
_LAST_VSOCK = 2**32 - 1
_RETRY = 0.1  # seconds
_LONGEST = 107  # bytes of a path in a Unix socket's address
LONGEST_NAME = 80  # bytes of a Unix socket's name, however deep its folder

# A host that is cut off for a minute or two finds its connections as they were: TCP sends again
# after pauses that double, so the limit is well beyond twice that. One that is gone is noticed.
_SILENCE = 300  # seconds without any sign of the peer's host
_KEEP_ALIVE = {
    socket.TCP_KEEPIDLE: 30,
    socket.TCP_KEEPINTVL: 15,
    socket.TCP_KEEPCNT: _SILENCE // 15,
    socket.TCP_USER_TIMEOUT: _SILENCE * 1000,
    socket.TCP_NODELAY: 1,
}


class Address(NamedTuple):
    """Where a socket is.

    Attributes:
        scheme: ``unix``, ``tcp`` or ``vsock``.
        place: a path; host or context id, as text.
        port: 0 for ``unix``.
    """

    scheme: str
    place: str
    port: int = 0


def parse(text: str) -> Address:
    """Read an address; an absolute path alone is a Unix socket's.

    Raises:
        ValueError: it is none.
    """
    if text.startswith("/"):
        return Address("unix", text)
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return Address(scheme, rest)
    place, _, digits = rest.rpartition(":")
    port = int(digits) if _NUMBER.fullmatch(digits) else -1
    if scheme == "tcp" and (host := _host(place)) and port >= 0:
        if port > _LAST_PORT:
            raise ValueError(f"{text!r} has port {port}; ports are from 1 to {_LAST_PORT}")
        return Address(scheme, host, port)
    if scheme == "vsock" and _NUMBER.fullmatch(place) and 0 <= port <= _LAST_VSOCK:
        return Address(scheme, place, port)
    raise ValueError(f"{text!r} is neither unix:/path nor tcp:host:port nor vsock:cid:port")


def _host(place: str) -> str:
    """A host; colons only in brackets."""
    if place.startswith("[") and place.endswith("]"):
        place = place[1:-1]
        return place if ":" in place else ""
    return "" if set(place) & set(":[]/ ") else place


def connect(text: str, *, timeout: float | None = None, patience: float = 0.0) -> socket.socket:
    """Connect to an address.

    Args:
        timeout: seconds for this and for whatever is done with the socket; None: no limit.
        patience: seconds that whoever is to answer may still need before he listens.

    Raises:
        OSError: nobody answers there.
        ValueError: it is no address.
    """
    address, last = parse(text), monotonic() + patience
    while True:
        try:
            return _connect(address, timeout)
        except OSError:
            if monotonic() >= last:
                raise
            sleep(_RETRY)


def _connect(address: Address, timeout: float | None) -> socket.socket:
    if address.scheme == "tcp":
        sock = socket.create_connection((address.place, address.port), timeout)
        keep_alive(sock)
        return sock
    sock, place = _socket(address)
    try:
        sock.settimeout(timeout)
        with _within(place) as near:
            sock.connect(near)
    except BaseException:
        sock.close()
        raise
    return sock


def listen(text: str) -> socket.socket:
    """A listening socket: a Unix one only this user can reach, and it replaces a dead one's file.

    Raises:
        StorageError: the address is none, taken, not this host's or not permitted.
    """
    try:
        address = parse(text)
        sock, place = _socket(address)
    except (OSError, ValueError) as error:
        raise _refused(text, error) from error
    try:
        if address.scheme == "unix":
            _remove_dead(address.place)
        if address.scheme == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keep_alive(sock)  # what it accepts inherits this
        with _within(place) as near:
            sock.bind(near)
        if address.scheme == "unix":
            os.chmod(address.place, 0o600)
        sock.listen()
    except OSError as error:
        sock.close()
        raise _refused(text, error) from error
    return sock


@contextlib.contextmanager
def listening(text: str) -> Iterator[socket.socket]:
    """``listen`` for as long as the block runs; a Unix socket's file is removed at the end.

    Raises:
        StorageError: as ``listen``.
    """
    sock = listen(text)
    try:
        yield sock
    finally:
        sock.close()
        address = parse(text)
        if address.scheme == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address.place)


def keep_alive(sock: socket.socket) -> None:
    """Let a TCP connection send at once, survive a cut of two minutes, and notice a lost host."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _socket(address: Address) -> tuple[socket.socket, str | tuple[str, int] | tuple[int, int]]:
    """A socket of the address's family, and the place in the form that the family wants."""
    if address.scheme == "unix":
        return socket.socket(socket.AF_UNIX), address.place
    if address.scheme == "vsock":
        return socket.socket(socket.AF_VSOCK), (int(address.place), address.port)
    found = socket.getaddrinfo(address.place, address.port, type=socket.SOCK_STREAM)
    family, _, _, _, place = found[0]
    return socket.socket(family), (str(place[0]), int(place[1]))


@contextlib.contextmanager
def _within(place: str | tuple[Any, ...]) -> Iterator[str | tuple[Any, ...]]:
    """The place, and of a path that is too long for an address, one by its folder's descriptor."""
    if not isinstance(place, str) or len(os.fsencode(place)) <= _LONGEST:
        yield place
        return
    folder = os.open(os.path.dirname(place), os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(place)}"
    finally:
        os.close(folder)


def _remove_dead(path: str) -> None:
    """Remove the file of a socket on which nobody listens: its program was killed."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(0)  # one whose queue is full is alive, too
            try:
                with _within(path) as near:
                    sock.connect(near)
            except ConnectionRefusedError:
                os.unlink(path)


def _refused(text: str, error: OSError | ValueError) -> StorageError:
    paths = f"a socket's name may have {LONGEST_NAME} bytes; is another run using this folder?"
    ports = "is another program using this port, and is the address one of this host?"
    return StorageError(
        f"cannot listen on {text}: {getattr(error, 'strerror', None) or error}",
        hint=ports if text.startswith(("tcp:", "vsock:")) else paths,
    )
