"""Somebody on the network who has no key of the job, and tries what can be tried.

python stranger.py control ADDRESS PORT...     asks for what starts apps, runs and nodes in Flower
python stranger.py node MANIFEST               a SuperNode with a key of its own
python stranger.py link MANIFEST               a server's link with a certificate of its own
python stranger.py impostor ADDRESS PORT...    listens as the coordinator, with a key of its own
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx

from sealtune.job.dsse import Envelope
from sealtune.job.manifest import open_manifest
from sealtune.job.network import NetworkIdentity, host_and_port
from sealtune.job.network_keys import certificate, made_node_key
from sealtune.launch.flower import Engine

# what Flower's SuperLink serves to its command line, to apps and to operators
PATHS = (
    "/v1/control/start-run",
    "/v1/control/list-runs",
    "/v1/control/register-node",
    "/v1/runtime/push-messages",
    "/v1/fleet/activate-node",
    "/",
)


def control(address: str, *ports: str) -> dict[str, Any]:
    answers = []
    for port in ports:
        for path in PATHS:
            for method in ("GET", "POST"):
                answers.append(_ask(method, f"https://{address}:{port}{path}"))
    return {"asked": len(answers), "answers": sorted(set(answers))}


def _ask(method: str, url: str) -> str:
    try:
        return str(
            httpx.request(
                method, url, content=b"", verify=False, trust_env=False, timeout=10
            ).status_code
        )
    except httpx.ConnectError as error:
        return "nobody" if "refused" in str(error).lower() else "nothing"
    except httpx.HTTPError:
        return "nothing"


def node(folder: Path, network: NetworkIdentity) -> dict[str, Any]:
    made_node_key(folder / "own.key")
    (folder / "relay.pem").write_text(network.certificate)
    domain = Engine(folder).node(
        "own", network.sites_at, folder / "relay.pem", folder / "own.key", str(folder / "none.sock")
    )
    done = subprocess.run(domain.command, capture_output=True, text=True, timeout=60, check=False)
    return {"said": done.stdout + done.stderr}


def link(folder: Path, network: NetworkIdentity) -> dict[str, Any]:
    """What the relay says to a link that shows another certificate than the manifest's."""
    own = certificate(folder / "own.key", "sealtune server", ())
    (folder / "own.pem").write_text(own)
    context = ssl.create_default_context(cadata=network.certificate)
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    address = host_and_port(network.server_at)
    heard = b""
    try:
        with (
            socket.create_connection(address, timeout=30) as raw,
            context.wrap_socket(raw, server_hostname=address[0]) as sock,
        ):
            sock.sendall(b"x" * 100)
            heard = sock.recv(1000)
    except OSError as error:
        return {"bytes": len(heard), "said": str(error)}
    return {"bytes": len(heard), "said": ""}


def impostor(folder: Path, address: str, *ports: str) -> None:
    own = certificate(folder / "own.key", "sealtune coordinator", [address])
    (folder / "own.pem").write_text(own)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    servers = [socket.create_server((address, int(port))) for port in ports]
    print(json.dumps({"event": "ready"}), flush=True)
    threads = [
        threading.Thread(target=_pose, args=(server, context), daemon=True) for server in servers
    ]
    for thread in threads:
        thread.start()
    threads[0].join()


def _pose(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        raw, _ = server.accept()
        heard, trouble = b"", ""
        try:
            with context.wrap_socket(raw, server_side=True) as sock:
                heard = sock.recv(1000)
        except OSError as error:
            trouble = str(error)
        port = server.getsockname()[1]
        told = {"event": "caller", "port": port, "heard": repr(heard)[2:-1], "trouble": trouble}
        print(json.dumps(told), flush=True)


def main() -> None:
    what, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what == "control":
            print(json.dumps(control(*rest)))
        elif what == "impostor":
            impostor(folder, *rest)
        else:
            network = open_manifest(Envelope.read(Path(rest[0]))).network
            assert network is not None
            tried = node(folder, network) if what == "node" else link(folder, network)
            print(json.dumps(tried))


if __name__ == "__main__":
    main()
