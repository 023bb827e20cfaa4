"""The server's program in the network engine.

    python -I -m sealtune.federation.relay CONFIG.json

Flower's SuperLink and what drives it, in one process: it serves the sites' programs (``fleet``),
asks the aggregator what to send, sends it, and reports what came back. The sites, their keys and
the one run are put into Flower's state here; nobody can add to them over the network. The
configuration: ``host`` and ``port`` to listen on, ``certificate`` and ``key`` (files), ``sites``
(name -> file of the public node key), and where the aggregator is: on this machine, ``socket``, the
address where it listens, or will; on another host, ``server_host`` and ``server_port``, where its
link comes in, and ``server_certificate`` (file), what the link shows.

Trust domain: network engine (untrusted), on the server operator's side.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from sealtune import sockets
from sealtune.errors import FederationError
from sealtune.federation.enclave_link import Outcome, ServerEnclave, connect
from sealtune.federation.events import say, say_error
from sealtune.federation.fleet import application
from sealtune.federation.flower_transport import FlowerTransport
from sealtune.federation.link_grid import LinkGrid, link_state
from sealtune.federation.link_port import LinkPort
from sealtune.federation.pinned_tls import context
from sealtune.federation.settings import Settings

KEEP = 75  # seconds that a node's idle connection stands: longer than between its heartbeats
_LOOK = 0.1  # seconds between two looks for the aggregator's socket


def relay(
    connections: Iterable[socket.socket],
    transport: FlowerTransport,
    say: Callable[..., None] = say,
) -> None:
    """Carry the aggregator's messages over ``transport`` until it is done.

    What is under way with the sites when a connection is lost goes on over the next one.

    Args:
        connections: to the aggregator, one after another, as they are needed.

    Raises:
        FederationError: the aggregator gave up, or there is no further connection.
        FrameError: it broke the protocol.
    """
    for connection in connections:
        try:
            with ServerEnclave(connection) as enclave:
                _carry(enclave, transport, say)
            return
        except ConnectionError as error:
            say("log", message=f"{error}; going on as soon as it is back")
    raise FederationError("the server enclave went away")


def _carry(enclave: ServerEnclave, transport: FlowerTransport, say: Callable[..., None]) -> None:
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

    while (order := enclave.next()) is not None:
        if not order.to:
            continue  # the enclave has worked in the meantime, and goes on
        say("exchange", sites=list(order.to), bytes=sum(map(len, order.to.values())))
        transport.exchange(order.to, order.deadline, report, order.left, enclave.limit)


def dial(address: str) -> Iterator[socket.socket]:
    """Connections to an aggregator of this machine, the first as soon as it listens.

    Raises:
        FederationError: it has listened, and does no longer.
    """
    while True:
        try:
            first = connect(address)
            break
        except FederationError:
            time.sleep(_LOOK)
    yield first
    while True:
        yield connect(address)


def _connections(settings: Settings) -> Iterable[socket.socket]:
    if settings.has("socket"):
        return dial(settings.address("socket"))
    pinned = settings.contents("server_certificate")
    own = context(settings.path("certificate"), settings.path("key"), pinned, server=True)
    address = _address(settings, "server_")
    return LinkPort(address, own, pinned, lambda line: say("log", message=line))


def _address(settings: Settings, which: str = "") -> str:
    """Where to listen; ``which``: what the keys begin with."""
    host, port = settings.text(f"{which}host"), settings.port(f"{which}port")
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def serve(settings: Settings) -> LinkGrid:
    """Serve the sites from a thread, until this process ends.

    Raises:
        FederationError: a file of the configuration is not what it should be.
        StorageError: the port is taken.
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
    listener = sockets.listen(_address(settings))
    config = uvicorn.Config(
        application(state, frozenset(keys)),
        ssl_certfile=settings.path("certificate"),
        ssl_keyfile=settings.path("key"),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP,
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
        grid = serve(settings)
        connections = _connections(settings)
        say("ready")
        relay(connections, FlowerTransport(grid, log=lambda line: say("log", message=line)))
    except Exception as error:
        say_error(error)
        raise
    say("bye")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
