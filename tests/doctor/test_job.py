"""What a manifest asks of a machine, and its coordinator on loopback."""

from __future__ import annotations

import datetime
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.doctor import job
from sealtune.doctor.finding import Finding, State
from sealtune.doctor.roles import Role
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import PAYLOAD_TYPE, manifest_bytes
from sealtune.job.network import host_and_port
from sealtune.job.network_keys import new_certificate
from tests.job.sample import APPRAISAL, NETWORK, make_manifest


@pytest.fixture(scope="module")
def credentials() -> tuple[bytes, str]:
    return new_certificate("a relay", ("127.0.0.1",), datetime.timedelta(days=1))


@pytest.fixture(scope="module")
def relay(
    credentials: tuple[bytes, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """An HTTPS server with a clock that can be set wrong."""

    class Handler(http.server.BaseHTTPRequestHandler):
        ahead = 0.0
        date: str | None = None  # in place of the time

        def do_GET(self) -> None:
            self.send_response_only(404)
            now = formatdate(time.time() + Handler.ahead, usegmt=True)
            self.send_header("Date", now if Handler.date is None else Handler.date)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    key, certificate = credentials
    folder = tmp_path_factory.mktemp("relay")
    (folder / "key").write_bytes(key)
    (folder / "certificate").write_text(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.handler = Handler  # type: ignore[attr-defined]
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: Any, certificate: str) -> dict[str, Finding]:
    found = job.coordinator("127.0.0.1", server.server_address[1], certificate)
    return {finding.key: finding for finding in found}


@pytest.mark.parametrize(("ahead", "state"), [(0.0, "good"), (3600.0, "poor"), (-30.0, "poor")])
def test_the_clock_is_held_against_the_coordinators(
    ahead: float, state: str, relay: Any, credentials: tuple[bytes, str]
) -> None:
    relay.handler.ahead = ahead
    found = ask(relay, credentials[1])
    relay.handler.ahead = 0.0
    assert found["coordinator"].state is State.GOOD
    assert found["coordinator.certificate"].state is State.GOOD
    assert found["coordinator.clock"].state == state


@pytest.mark.parametrize("date", ["", "soon", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"])
def test_a_coordinator_whose_clock_tells_no_time(
    date: str, relay: Any, credentials: tuple[bytes, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no time is told as that, and ends nothing."""
    monkeypatch.setattr(relay.handler, "date", date)
    found = ask(relay, credentials[1])
    assert found["coordinator"].state is State.GOOD
    assert found["coordinator.clock"].state is State.UNKNOWN


def test_another_certificate_is_no_coordinator(relay: Any) -> None:
    """Of the same name and address, made by somebody else."""
    _, other = new_certificate("a relay", ("127.0.0.1",), datetime.timedelta(days=1))
    found = ask(relay, other)
    assert found["coordinator.certificate"].state is State.MISSING
    assert "coordinator" not in found


def test_nobody_answers(credentials: tuple[bytes, str]) -> None:
    (finding,) = job.coordinator("127.0.0.1", 1, credentials[1])
    assert finding.key == "coordinator"
    assert finding.state is State.MISSING


def write(path: Path, **changes: Any) -> Path:
    made = make_manifest(**changes)
    path.write_bytes(Envelope(payload_type=PAYLOAD_TYPE, payload=manifest_bytes(made)).encode())
    return path


def test_a_job_says_what_each_role_shows(tmp_path: Path) -> None:
    asked = job.asked_by(write(tmp_path / "a.json"))
    assert asked.evidence == {Role.SITE: "simulated", Role.SERVER: "simulated"}
    assert not asked.gpu
    assert [finding.key for finding in asked.findings] == ["manifest"]
    tdx = {"version": 1, "kinds": {"tdx": {"measurements": ["00" * 48]}}}
    asked = job.asked_by(write(tmp_path / "b.json", appraisal={"server": tdx, "site": APPRAISAL}))
    assert asked.evidence[Role.SERVER] == "tdx"


def test_ports_are_those_of_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, int]] = []

    def note(host: str, port: int, certificate: str) -> list[Finding]:
        assert certificate == NETWORK.certificate
        sent.append((host, port))
        return []

    monkeypatch.setattr(job, "coordinator", note)
    asked = job.asked_by(write(tmp_path / "a.json", network=NETWORK))
    assert asked.ports == tuple(
        host_and_port(address)[1] for address in (NETWORK.sites_at, NETWORK.server_at)
    )
    assert sent == [host_and_port(NETWORK.sites_at)]


def test_what_is_no_manifest_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "noise").write_text("noise")
    (finding,) = job.asked_by(tmp_path / "noise").findings
    assert finding.state is State.MISSING


def test_the_command_takes_the_evidence_from_the_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json")
    words = ["doctor", "--fast", "--role", "server", "--json", "--manifest", str(path)]
    done = CliRunner().invoke(app, words)
    needs = json.loads(done.stdout)["roles"]["server"]["needs"]
    assert needs["tee"]["words"].startswith("simulated")
    assert needs["manifest"]["colour"] == "green"
    assert done.exit_code == 0
