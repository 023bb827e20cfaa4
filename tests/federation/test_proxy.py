"""The example of a reverse proxy: it is what is rendered, and nginx does with it what it says."""

from __future__ import annotations

import dataclasses
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sealtune.deploy import nginx
from sealtune.deploy.proxy import OPERATIONS
from sealtune.federation import fleet
from sealtune.frames import Frame
from sealtune.launch.ports import free_port
from tests.federation.enclaves import order
from tests.federation.engine import Engine

EXAMPLE = Path("examples/deploy/nginx.conf")
_WHOLE = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/sealtune.conf;
}}
"""


def test_the_example_is_what_is_rendered() -> None:
    folder = Path("/etc/sealtune")
    rendered = nginx(
        "443", "relay.example", "127.0.0.1:9092", folder / "relay.pem", folder / "relay.key"
    )
    assert EXAMPLE.read_text() == rendered


def test_what_passes_is_what_the_relay_serves() -> None:
    paths = {route.path for route in fleet.router.routes}  # type: ignore[attr-defined]
    assert paths == {f"/v1/fleet/{operation}" for operation in OPERATIONS}


@pytest.fixture
def proxied() -> Iterator[tuple[Engine, int]]:
    """A relay behind nginx, and nginx's port."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx here (Debian: nginx-light)")
    engine, port = Engine(), free_port()
    made = engine.flower.credentials
    (engine.folder / "sealtune.conf").write_text(
        nginx(f"127.0.0.1:{port}", "localhost", engine.address, made.certificate, made.key)
    )
    whole = engine.folder / "nginx.conf"
    whole.write_text(_WHOLE.format(folder=engine.folder))
    try:
        subprocess.run([program, "-t", "-c", whole, "-e", "stderr"], check=True, timeout=60)
        engine.start([program, "-c", str(whole), "-e", "stderr"])
        engine.until(lambda: engine.listens(port))
        yield engine, port
    finally:
        engine.close()


def test_nodes_pass_the_proxy_and_nothing_else_does(proxied: tuple[Engine, int]) -> None:
    engine, port = proxied
    engine.relay()
    context = ssl.create_default_context(cadata=engine.authority)
    url = f"https://localhost:{port}"
    with httpx.Client(verify=context, trust_env=False) as stranger:
        for method, path in (
            ("POST", "/v1/control/start-run"),
            ("POST", "/v1/runtime/pull-task"),
            ("POST", "/v1/fleet/register-node"),
            ("POST", "/v1/fleet/get-fab"),
            ("POST", "/v1/fleet/../control/start-run"),
            ("POST", "/v1/fleet/pull-messages/x"),
            ("POST", "/v1/fleet//pull-messages%00"),
            ("POST", "/"),
            ("GET", "/v1/fleet/pull-messages"),
            ("PUT", "/v1/fleet/push-object"),
        ):
            answer = stranger.request(method, url + path, content=b"")
            assert (answer.status_code, answer.headers["server"]) in (
                (404, "nginx"), (400, "nginx"),
            ), (method, path)  # fmt: skip
        large = stranger.post(f"{url}/v1/fleet/push-object", content=bytes(10 << 20))
        assert (large.status_code, large.headers["server"]) == (413, "nginx")
        known = stranger.post(f"{url}/v1/fleet/push-object", content=b"x")
        assert known.status_code == 401  # by the relay, which does not know who asks
    engine.flower = dataclasses.replace(engine.flower, port=port)
    engine.node("a", lambda frame: Frame("reply", {}, bytes(frame.body)[::-1]))
    body = bytes(range(256)) * (7 << 12)
    assert bytes(engine.work([order({"a": body})])[0].body) == body[::-1]
