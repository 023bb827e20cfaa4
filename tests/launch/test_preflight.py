"""``--check`` of a party's command: every problem, told apart, all at once, and nothing started."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from typer.testing import CliRunner

from sealtune.attest.errors import UnknownSignerError
from sealtune.attest.platforms.simulated import own_signer
from sealtune.cli.main import app
from sealtune.errors import FederationError, SealtuneError, StorageError
from sealtune.job.local import Local
from sealtune.job.local_file import load_local
from sealtune.job.network_keys import new_certificate, new_node_key
from sealtune.launch import preflight as room
from sealtune.launch import reach as reaching
from sealtune.launch.ports import free_port
from sealtune.launch.preflight import preflight
from sealtune.launch.reach import Asked, check_clock, reach
from tests.job.sample import APPRAISAL, make_manifest
from tests.launch.test_party import Hosts, Make, hosts

__all__ = ["hosts"]  # the fixture


@pytest.fixture
def admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up manifest is of no code that is here."""
    found = SimpleNamespace(job_id="ab" * 48)
    monkeypatch.setattr(room, "admit_party", lambda local: found)


def look(job: Hosts, name: str) -> dict[str, SealtuneError | None]:
    local = load_local(job.folder / name / "local.toml")
    return {row.what: row.error for row in preflight(local)}


def test_a_folder_of_shared_memory_has_to_be_there(tmp_path: Path) -> None:
    assert room._shared_folder(tmp_path) == f"{tmp_path} is there"
    with pytest.raises(SealtuneError, match="no folder that this user may write to"):
        room._shared_folder(tmp_path / "none")


@pytest.mark.usefixtures("admitted")
def test_nothing_in_the_way_and_nothing_done(hosts: Make) -> None:
    job = hosts()
    coordinator, gpu = job.start("coordinator", "gpu")
    for one in (coordinator, gpu):
        one.wait_for("ready")
    site, server = look(job, "a"), look(job, "server")
    assert list(site) == [
        "folder", "node_key", "listen", "accelerator", "evidence", "network key", "coordinator",
        "node", "clock", "admission",
    ]  # fmt: skip
    assert list(server) == [
        "folder", "tls_key", "listen", "evidence", "network key", "coordinator", "clock",
        "admission",
    ]  # fmt: skip
    assert {*site.values(), *server.values()} == {None}
    assert not (job.folder / "a" / "out").exists()
    assert not (job.folder / "a" / "a.sock").exists()
    network = json.loads(job.envelope.payload)["network"]
    with reach(network["sites_at"], network["certificate"]) as link:
        assert not Asked(link, new_node_key()[1]).known
    (log,) = [e for e in coordinator.events if e["event"] not in ("ready", "start")]
    assert "did not return a certificate" in log["message"], "a link that runs is not replaced"


@pytest.mark.usefixtures("admitted")
def test_everything_that_is_wrong_is_told_at_once(hosts: Make) -> None:
    job = hosts()
    place = job.folder / "a"
    job.key("a", new_node_key()[0])
    text = (place / "local.toml").read_text()
    (place / "local.toml").write_text(text.replace('"a.sock"', '"none/a.sock"'))
    (place / "out").write_text("in the way")
    found = {what: str(error) for what, error in look(job, "a").items() if error}
    assert set(found) == {"folder", "listen", "accelerator", "network key", "coordinator"}
    assert "could not write" in found["folder"]
    assert "there is no folder" in found["listen"]
    assert "no accelerator answers" in found["accelerator"]
    assert "is not the node key that the manifest names for 'a'" in found["network key"]
    assert "refuses connections: nobody listens there" in found["coordinator"]
    os.chmod(place / "net.key", 0o644)
    found = {what: str(error) for what, error in look(job, "a").items() if error}
    assert "can be read by others (mode 0644)" in found["node_key"]
    assert "network key" not in found, "told once"


@pytest.mark.usefixtures("admitted")
def test_ports_that_are_taken(hosts: Make) -> None:
    job = hosts()
    with socket.create_server(("127.0.0.1", job.ports[1])):
        found = look(job, "coordinator")
    assert {what for what, error in found.items() if error} == {"listen_server"}


@contextmanager
def listening(act: Callable[[socket.socket], None]) -> Iterator[str]:
    """Somebody at an address of this machine, who does ``act`` with who comes."""
    with socket.create_server(("127.0.0.1", port := free_port())) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                act(sock)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{port}"
        thread.join(10)


def serving(tmp_path: Path, valid: timedelta, *answer: bytes) -> tuple[str, Callable[..., None]]:
    """A certificate, and who shows it and sends ``answer``."""
    key, certificate = new_certificate("x", ("127.0.0.1",), valid)
    (tmp_path / "x.key").write_bytes(key)
    (tmp_path / "x.pem").write_text(certificate)

    def act(sock: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "x.pem", tmp_path / "x.key")
        try:
            with context.wrap_socket(sock, server_side=True) as link:
                if answer:
                    link.recv(4096)
                    link.sendall(answer[0])
        except OSError:
            pass

    return certificate, act


def test_another_certificate(tmp_path: Path) -> None:
    _, act = serving(tmp_path, timedelta(days=1))
    _, pinned = new_certificate("x", ("127.0.0.1",), timedelta(days=1))
    with (
        listening(act) as address,
        pytest.raises(FederationError, match="shows another certificate than the one in the man"),
    ):
        reach(address, pinned)


def test_an_expired_certificate(tmp_path: Path) -> None:
    pinned, act = serving(tmp_path, timedelta(minutes=-1))
    with listening(act) as address, pytest.raises(FederationError, match="is valid from"):
        reach(address, pinned)


def test_no_tls(tmp_path: Path) -> None:
    pinned, _ = serving(tmp_path, timedelta(days=1))
    with (
        listening(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as address,
        pytest.raises(FederationError, match=r"speaks no TLS 1\.3"),
    ):
        reach(address, pinned)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the name relay.test has no address"),
        (TimeoutError("timed out"), "there is no way to relay.test:9: no answer"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "there is no way to .*: No route"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "refuses connections"),
    ],
)
def test_how_far_it_came(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(reaching, "connect", fail)
    with pytest.raises(FederationError, match=said):
        reach("relay.test:9", "")


def test_what_is_no_relay(tmp_path: Path) -> None:
    pinned, act = serving(tmp_path, timedelta(days=1), b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    with (
        listening(act) as address,
        reach(address, pinned) as link,
        pytest.raises(FederationError, match="answers with status 502"),
    ):
        Asked(link, new_node_key()[1])


@pytest.mark.parametrize("date", ["", "now", "Mon, 99 Abc 2026", "Mon, 31 Feb 2026 00:00:00 GMT"])
def test_a_coordinator_whose_clock_tells_no_time(date: str) -> None:
    """It is asked the rest all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(f"HTTP/1.1 411 x\r\ndate: {date}\r\n\r\n".encode())
        asked = Asked(cast("ssl.SSLSocket", ours), new_node_key()[1])
    assert asked.known
    assert asked.skew is None


def test_clocks() -> None:
    assert check_clock(2.0) == "2 s behind the coordinator's"
    assert check_clock(-2.0) == "2 s ahead of the coordinator's"
    for skew in (90.0, -90.0):
        with pytest.raises(FederationError, match="this machine's clock is 90 s"):
            check_clock(skew)


def test_a_key_of_simulated_evidence_that_nobody_accepts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    local = Local(
        role="server", manifest=tmp_path / "m", folder=tmp_path / "f", listen=str(tmp_path / "s")
    )

    def found(signers: object) -> str:
        kinds = {"simulated": APPRAISAL["kinds"]["simulated"] | {"signers": signers}}
        policy = {**APPRAISAL, "kinds": kinds}
        manifest = make_manifest(appraisal={"server": policy, "site": APPRAISAL})
        return room._evidence(local, "server", manifest)

    for make in (False, True):  # there is none, and there is another
        if make:
            own_signer()
        with pytest.raises(UnknownSignerError, match="not a key that the manifest names"):
            found(["ab" * 32])
        assert (tmp_path / "data").exists() == make, "none is made by looking"
    assert found([own_signer().hex()]) == found("any") == "this machine makes simulated evidence"


def test_a_socket_s_name_has_a_limit_and_its_folder_has_none(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    assert room._listen(f"{folder}/n.sock") == f"{folder}/n.sock is free"
    with pytest.raises(StorageError, match="longer than the 80 bytes of a socket's name"):
        room._listen(str(tmp_path / ("n" * 81)))


def test_the_table_and_the_code(hosts: Make) -> None:
    """The first error's code; the same in both forms."""
    job = hosts()
    args = ["site", "--local", str(job.folder / "a" / "local.toml"), "--check"]
    plain = CliRunner().invoke(app, args)
    table = CliRunner().invoke(app, [*args, "--json"])
    found = json.loads(table.stdout)
    wrong = [row for row in found["checks"] if not row["ok"]]
    assert [row["what"] for row in wrong] == ["accelerator", "coordinator", "admission"]
    assert (found["party"], found["ok"]) == ("site-a", False)
    assert plain.exit_code == table.exit_code == wrong[0]["code"] == 5
    assert "3 of 8 in the way; nothing was started" in plain.stdout
    assert "is `sealtune coordinator` running?" in plain.stdout
    wrong_command = CliRunner().invoke(app, ["server", *args[1:]])
    assert wrong_command.exit_code == 2
    assert CliRunner().invoke(app, ["site", "--check"]).exit_code == 2
