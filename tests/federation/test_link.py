"""The link between a relay and a server enclave on another host, and who else comes to its port."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sealtune import frames
from sealtune.errors import FederationError
from sealtune.federation import link as link_program
from sealtune.federation.pinned_tls import check_peer, context
from sealtune.frames import Frame
from sealtune.launch.credentials import Credentials
from sealtune.launch.environment import program
from sealtune.launch.ports import free_port
from tests.federation.enclaves import Aggregator, listen, order
from tests.federation.engine import Engine


class TwoHosts(Engine):
    """An engine whose server enclave is behind a link."""

    def __init__(self) -> None:
        super().__init__()
        self.second = free_port()
        self.own = self.credentials("link")

    def relay(self, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start the relay with its second port."""
        path = Path(self.flower.relay(self.folder / "unused").command[-1])
        content = json.loads(path.read_text())
        del content["socket"]
        content |= {
            "server_host": "0.0.0.0",
            "server_port": self.second,
            "server_certificate": str(self.own.certificate),
        }
        path.write_text(json.dumps(content))
        process = super().relay(program("relay", str(path)))
        self.until(lambda: self.listens(self.second))
        return process

    def link(self, **changes: Any) -> subprocess.Popen[bytes]:
        """Start the link."""
        content = {
            "relay": f"127.0.0.1:{self.second}",
            "authority": str(self.flower.credentials.certificate),
            "certificate": str(self.own.certificate),
            "key": str(self.own.key),
            "socket": f"unix:{self.folder}/server.sock",
        }
        path = self.folder / "link.json"
        path.write_text(json.dumps(content | changes))
        return self.start(program("link", str(path)))

    def work(self, orders: list[Frame]) -> list[Frame]:
        """As it is, without a socket of the relay's."""
        aggregator = Aggregator(self.folder / "server.sock", [*orders, Frame("done")])
        aggregator.close(60)
        return aggregator.reports

    def dial(self, own: Credentials | None, patience: float = 20) -> ssl.SSLSocket:
        """Connect to the second port, with a certificate or without one."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        if own is not None:
            client.load_cert_chain(own.certificate, own.key)
        return client.wrap_socket(socket.create_connection(("127.0.0.1", self.second), patience))


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    hosts = TwoHosts()
    yield hosts
    hosts.close()


@pytest.fixture(scope="module")
def listening() -> Iterator[TwoHosts]:
    """A relay for those who only knock."""
    hosts = TwoHosts()
    hosts.relay()
    yield hosts
    hosts.close()


def backwards(frame: Frame) -> Frame:
    return Frame("reply", {}, bytes(frame.body)[::-1])


def answers(reports: list[Frame]) -> list[tuple[str, Any, bytes]]:
    return sorted((f.kind, f.meta["site"], bytes(f.body)) for f in reports)


def test_a_server_on_another_host(hosts: TwoHosts) -> None:
    hosts.relay()
    link = hosts.link()
    for site in "ab":
        hosts.node(site, backwards)
    large = bytes(range(256)) * 20_000
    reports = hosts.work([order({"a": b"abc", "b": b""}), order({"a": large})])
    assert answers(reports[:2]) == [("reply", "a", b"cba"), ("reply", "b", b"")]
    assert bytes(reports[2].body) == large[::-1]
    link.send_signal(signal.SIGTERM)
    assert link.wait(30) == 0


class Repeating:
    """A server enclave that hands out its one order again, until every site is answered for."""

    def __init__(self, path: Path, bodies: dict[str, bytes]) -> None:
        self.reports: list[Frame] = []
        self.asked = threading.Event()
        self.heard = threading.Event()
        self._left = dict(bodies)
        self._path = path
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with listen(self._path) as listener:
            while not self.heard.is_set():
                sock, _ = listener.accept()
                with sock, contextlib.suppress(EOFError, OSError, frames.FrameError):
                    self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        while (frame := frames.receive(sock)).kind != "bye":
            if frame.kind != "next":
                self.reports.append(frame)
                del self._left[frame.meta["site"]]
                frames.send(sock, Frame("ok"))
            else:
                frames.send(sock, order(self._left) if self._left else Frame("done"))
                self.asked.set()
        self.heard.set()


@pytest.mark.parametrize("lost", ["link", "relay", "both"])
def test_what_is_under_way_survives_a_lost_link_and_a_lost_relay(
    hosts: TwoHosts, lost: str
) -> None:
    worked: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def slowly(frame: Frame) -> Frame:
        if not worked:
            worked.append("a")
            begun.set()
            go_on.wait(60)
        return backwards(frame)  # a repeat is answered at once, as an enclave does

    relay, link = hosts.relay(), hosts.link()
    hosts.node("a", slowly)
    hosts.node("b", backwards)
    enclave = Repeating(hosts.folder / "server.sock", {"a": b"abc", "b": b"de"})
    assert begun.wait(60), hosts.log()
    hosts.until(lambda: len(enclave.reports) == 1)  # b's
    for process in {"link": [link], "relay": [relay], "both": [link, relay]}[lost]:
        process.kill()
        process.wait()
    go_on.set()
    if lost != "link":
        hosts.relay()
    if lost != "relay":
        hosts.link()
    assert enclave.heard.wait(60), hosts.log()
    assert answers(enclave.reports) == [("reply", "a", b"cba"), ("reply", "b", b"ed")]


def test_a_new_link_takes_the_place_of_a_dead_one(hosts: TwoHosts) -> None:
    """The relay waits for an answer on a connection of which nobody knows that it is dead."""
    hosts.relay()
    with hosts.dial(hosts.own) as dead:
        assert frames.receive(dead).kind == "next"
        hosts.link()
        hosts.node("a", backwards)
        assert answers(hosts.work([order({"a": b"abc"})])) == [("reply", "a", b"cba")]
        assert dead.recv(1) == b""


def nothing(hosts: TwoHosts) -> Credentials | None:
    return None


def strange(hosts: TwoHosts) -> Credentials:
    return hosts.credentials("strange")


def relays_own(hosts: TwoHosts) -> Credentials:
    return hosts.flower.credentials


@pytest.mark.parametrize("shown", [nothing, strange, relays_own])
def test_who_is_not_the_link_gets_no_word_from_the_relay(
    listening: TwoHosts, shown: Callable[[TwoHosts], Credentials | None]
) -> None:
    with (
        listening.dial(shown(listening)) as stranger,
        pytest.raises(ssl.SSLError, match=r"(?i)alert|eof"),
    ):
        stranger.recv(1)


def test_the_pinned_certificate_without_its_key_is_nothing(hosts: TwoHosts) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLError):
        client.load_cert_chain(hosts.own.certificate, hosts.credentials("x").key)


def test_silent_and_talkative_strangers_keep_nobody_out(hosts: TwoHosts) -> None:
    hosts.relay()
    with contextlib.ExitStack() as stack:
        for text in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(1 << 20)):
            sock = socket.create_connection(("127.0.0.1", hosts.second), 20)
            stack.enter_context(sock)
            with contextlib.suppress(OSError):
                sock.sendall(text)
        hosts.link()
        hosts.node("a", backwards)
        assert answers(hosts.work([order({"a": b"abc"})])) == [("reply", "a", b"cba")]


def test_many_silent_strangers_keep_the_link_waiting_for_none_of_them(hosts: TwoHosts) -> None:
    """They come again as soon as they are hung up on; each would be borne for 20 s."""
    hosts.relay()
    with contextlib.ExitStack() as stack:
        for _ in range(5 * 32):
            sock = socket.create_connection(("127.0.0.1", hosts.second), 20)
            stack.enter_context(sock)
        with hosts.dial(hosts.own, patience=8) as link:
            assert frames.receive(link).kind == "next"


@pytest.mark.parametrize("wrong", ["another certificate", "another host"])
def test_the_link_talks_to_its_relay_alone(hosts: TwoHosts, wrong: str) -> None:
    """Another relay, and the right one under a name that its certificate does not have."""
    hosts.relay()
    enclave = Repeating(hosts.folder / "server.sock", {})
    if wrong == "another certificate":
        changes = {"authority": str(strange(hosts).certificate)}
    else:
        changes = {"relay": f"127.0.0.2:{hosts.second}"}
    said = refusal(hosts, **changes)
    assert "certificate verify failed" in said
    assert not enclave.asked.is_set()
    hosts.link()  # the right one
    assert enclave.heard.wait(60), hosts.log()


def refusal(hosts: TwoHosts, **changes: Any) -> str:
    """What the link says of its first failure."""
    path = Path(hosts.link(**changes).args[-1])  # type: ignore[index]
    command = program("link", str(path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            states = (json.loads(line).get("state") for line in process.stdout or ())
            return next(str(state) for state in states if state)
        finally:
            process.kill()


def test_a_peer_that_an_authority_vouches_for_is_not_the_pinned_one(hosts: TwoHosts) -> None:
    """``check_peer`` compares the certificate itself, whatever the chain says."""
    a, b = hosts.credentials("one"), hosts.credentials("two")
    pems = a.certificate.read_text() + b.certificate.read_text()
    with pytest.raises(FederationError, match="no certificate"):
        context(a.certificate, a.key, pems, server=False)

    class Shown:
        def getpeercert(self, binary_form: bool) -> bytes:
            return ssl.PEM_cert_to_DER_cert(b.certificate.read_text())

    with pytest.raises(FederationError, match="another certificate"):
        check_peer(Shown(), a.certificate.read_text())  # type: ignore[arg-type]


def test_a_relay_that_sends_garbage_reaches_nothing_but_the_enclaves_reader(
    hosts: TwoHosts,
) -> None:
    """A megabyte of it: the enclave hangs up, the link lives and dials again."""
    made = hosts.flower.credentials
    server = context(made.certificate, made.key, hosts.own.certificate.read_text(), server=True)
    enclave = Repeating(hosts.folder / "server.sock", {"a": b"abc"})
    with socket.create_server(("127.0.0.1", hosts.second)) as listener:
        link = hosts.link()
        for _ in range(2):
            sock, _ = listener.accept()
            with server.wrap_socket(sock, server_side=True) as relay:
                with contextlib.suppress(OSError):
                    relay.sendall(b"\xff" * (1 << 20))
                relay.settimeout(30)
                assert relay.recv(1) == b""
    assert link.poll() is None
    assert enclave.reports == []
    hosts.relay()
    hosts.node("a", backwards)
    assert enclave.heard.wait(60), hosts.log()


def test_a_link_holds_little(hosts: TwoHosts) -> None:
    """An enclave that reads nothing stops a relay that sends without end."""
    made = hosts.flower.credentials
    server = context(made.certificate, made.key, hosts.own.certificate.read_text(), server=True)
    with socket.create_server(("127.0.0.1", hosts.second)) as listener:
        path = listen(hosts.folder / "server.sock")
        hosts.link()
        sock, _ = listener.accept()
        sent = 0
        with server.wrap_socket(sock, server_side=True) as relay:
            relay.settimeout(3)
            with contextlib.suppress(TimeoutError):
                while sent < 1 << 30:
                    sent += relay.send(bytes(1 << 16))
        path.close()
    # its own buffers, and the kernel's for two sockets
    assert sent < 8 * link_program.BUFFER + (64 << 20)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"relay": "127.0.0.1"}, "relay should be an address"),
        ({"socket": "server.sock"}, "socket should be an address"),
        ({"key": "/nowhere"}, "no certificate, or none with this key"),
        ({"authority": "/nowhere"}, "cannot read /nowhere"),
    ],
)
def test_a_wrong_configuration_is_said(hosts: TwoHosts, change: dict[str, str], said: str) -> None:
    path = Path(hosts.link(**change).args[-1])  # type: ignore[index]
    done = subprocess.run(
        program("link", str(path)), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    event = json.loads(done.stdout)
    assert event["event"] == "error"
    assert said in event["message"]
