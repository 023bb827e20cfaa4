"""Addresses of sockets, and what dials and serves them."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from sealtune import sockets
from sealtune.errors import StorageError


@pytest.mark.parametrize(
    "bad",
    ["", "unix:", "unix", "a.sock", "tcp:1.2.3.4", "tcp::80", "tcp:80", "http://x:1", "tcp:h:port",
     "tcp:h:", "tcp:h:-1", "tcp:h:+1", "tcp:h:1_0", "tcp:h:٣", "tcp:1:2:3", "tcp:::1:80",
     "tcp:[h]:1", "tcp:[]:1", "tcp:a b:1", "tcp:h/x:1", "vsock:2", "vsock::1", "vsock:me:1",
     "vsock:2:x", "vsock:2:99999999999", "vsock:2:4294967296"],
)  # fmt: skip
def test_addresses_are_checked(bad: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        sockets.parse(bad)


def test_a_port_has_16_bits() -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        sockets.parse("tcp:h:65536")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("unix:/run/a.sock", ("unix", "/run/a.sock", 0)),
        ("unix:a:b", ("unix", "a:b", 0)),
        ("/run/a:b", ("unix", "/run/a:b", 0)),
        ("tcp:10.0.0.1:80", ("tcp", "10.0.0.1", 80)),
        ("tcp:[::1]:8080", ("tcp", "::1", 8080)),
        ("tcp:relay.example:65535", ("tcp", "relay.example", 65535)),
        ("vsock:2:5000", ("vsock", "2", 5000)),
        ("vsock:4294967295:4294967295", ("vsock", "4294967295", 4294967295)),
    ],
)
def test_addresses_are_read(text: str, parsed: tuple[str, str, int]) -> None:
    assert sockets.parse(text) == parsed


def exchange(text: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of one connection to ``text``, which is known to carry a byte each way."""
    with sockets.listen(text) as listener:
        port = listener.getsockname()[1] if text.startswith("tcp:") else ""
        near = sockets.connect(text.removesuffix("0") + str(port) if port else text, timeout=10)
        far, _ = listener.accept()
    for one, other in ((near, far), (far, near)):
        one.sendall(b"x")
        assert other.recv(2) == b"x"
    return near, far


def test_a_unix_socket_is_this_users_alone_and_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with sockets.listening(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    for end in exchange(f"unix:{path}"):
        end.close()


def test_a_unix_socket_may_lie_deep(tmp_path: Path) -> None:
    """An address holds 107 bytes of a path; the folder's descriptor stands for the rest."""
    path = tmp_path / ("d" * 120) / ("n" * sockets.LONGEST_NAME)
    path.parent.mkdir()
    for end in exchange(f"unix:{path}"):
        end.close()
    with sockets.listening(str(path)), pytest.raises(StorageError, match="another run"):
        sockets.listen(str(path))
    assert not path.exists()
    sockets.listen(str(path)).close()
    for end in exchange(str(path)):  # the file of a dead one is replaced there, too
        end.close()
    with pytest.raises(FileNotFoundError):
        sockets.connect(f"unix:{path.parent}/none.sock")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_tcp_connection_notices_a_lost_peer_and_survives_a_short_cut(host: str) -> None:
    if host == "[::1]" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    for end in exchange(f"tcp:{host}:0"):
        with end:
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            limit = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert 240_000 <= limit <= 600_000  # more than twice two minutes, and an end


def test_a_dead_programs_socket_is_replaced_and_a_live_ones_is_not(tmp_path: Path) -> None:
    text = str(tmp_path / "a.sock")
    sockets.listen(text).close()  # its file stays, as of a program that was killed
    with sockets.listen(text), pytest.raises(StorageError, match="another run"):
        sockets.listen(text)


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("the user's")
    with pytest.raises(StorageError, match="cannot listen on"):
        sockets.listen(str(tmp_path / "a.sock"))
    assert (tmp_path / "a.sock").read_text() == "the user's"


@pytest.mark.parametrize("text", ["no address", "tcp:203.0.113.1:80", f"/{'x' * 200}"])
def test_what_cannot_be_listened_on_is_said(text: str) -> None:
    with pytest.raises(StorageError, match="cannot listen on"), sockets.listening(text):
        pytest.fail("it listens")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sockets.connect(f"unix:{tmp_path}/none.sock")
