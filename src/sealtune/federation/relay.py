"""The server's program in the network engine.

    python -I -m sealtune.federation.relay CONFIG.json

Flower's SuperLink and what drives it, in one process: it serves the sites' programs (``fleet``),
asks the aggregator what to send, sends it, and reports what came back. The sites, their keys and
the one run are put into Flower's state here; nobody can add to them over the network. The
configuration: ``host`` and ``port`` to listen on, ``certificate`` and ``key`` (files), ``sites``
(name -> file of the public node key), and ``socket``: where the aggregator listens, or will.

Trust domain: network engine (untrusted), on the server operator's side.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from sealtune.errors import FederationError, SealtuneError
from sealtune.federation.enclave_link import Outcome, ServerEnclave
from sealtune.federation.fleet import application
from sealtune.federation.flower_transport import FlowerTransport
from sealtune.federation.link_grid import LinkGrid, link_state
from sealtune.federation.settings import Settings

_LOOK = 0.1  # seconds between two looks for the aggregator's socket


def say(event: str, **fields: Any) -> None:
    """Report ``event``, as a JSON line on stdout for the launcher."""
    print(json.dumps({"event": event, **fields}), flush=True)


def relay(address: str, transport: FlowerTransport, say: Callable[..., None] = say) -> None:
    """Carry the aggregator's messages over ``transport`` until it is done.

    Raises:
        FederationError: the aggregator gave up or went away.
    """
    with ServerEnclave(address) as enclave:
        while (order := enclave.next()) is not None:
            outgoing, deadline = order
            if not outgoing:
                continue  # the enclave has worked in the meantime, and goes on
            say("exchange", sites=list(outgoing), bytes=sum(map(len, outgoing.values())))

            def report(outcome: Outcome) -> None:
                enclave.report(outcome)
                say(
                    "transfer",
                    site=outcome.site,
                    outcome="absent" if outcome.body is None else "reply",
                    reason=outcome.reason,
                    attempts=outcome.attempts,
                    bytes_down=outcome.bytes_down,
                    bytes_up=outcome.bytes_up,
                    seconds=round(outcome.seconds, 3),
                )

            transport.exchange(outgoing, deadline, report)


def serve(settings: Settings) -> LinkGrid:
    """Serve the sites from a thread, until this process ends.

    Raises:
        FederationError: the port is taken, or a file of the configuration is not what it should be.
    """
    state = link_state()
    keys = set()
    for site, path in settings.paths("sites").items():
        public = load_ssh_public_key(path.read_bytes())
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise FederationError(f"{path} is no public key on an elliptic curve")
        data = public_key_to_bytes(public)
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, data, 0, name=site)
        keys.add(b64encode(data).decode("ascii"))
    grid = LinkGrid(state)
    host, port = settings.text("host"), settings.port("port")
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise FederationError(f"cannot listen on port {port} of {host}: {error}") from error
    config = uvicorn.Config(
        application(state, frozenset(keys)),
        ssl_certfile=settings.path("certificate"),
        ssl_keyfile=settings.path("key"),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, daemon=True, name="fleet"
    )
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise FederationError("Flower's Fleet API did not start")
        time.sleep(0.01)
    return grid


def main(config: Path) -> int:
    """Serve the sites and carry the aggregator's messages until it is done."""
    try:
        settings = Settings(config)
        aggregator = settings.address("socket")
        grid = serve(settings)
        say("ready")
        while not Path(aggregator).exists():
            time.sleep(_LOOK)
        relay(aggregator, FlowerTransport(grid, log=lambda line: say("log", message=line)))
    except Exception as error:
        message = error.message if isinstance(error, SealtuneError) else str(error)
        code = error.exit_code if isinstance(error, SealtuneError) else 1
        say("error", code=code, error=type(error).__name__, message=message, hint="")
        raise
    say("bye")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
