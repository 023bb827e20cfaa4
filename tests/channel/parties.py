"""The parties of a handshake, with simulated evidence and a development key in memory."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest.platforms.simulated import (
    SimulatedAttester,
    SimulatedVerifier,
    simulated_policy,
)
from sealtune.channel.client import ClientHandshake
from sealtune.channel.handshake import Established
from sealtune.channel.server import ServerHandshake

JOB = bytes(range(48))
OTHER_JOB = bytes(48)
SITE = "clinic-a"
CODE = b"\x11" * 48  # the agreed measurement

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()


def attester(key: Ed25519PrivateKey = KEY, *, code: bytes = CODE) -> SimulatedAttester:
    return SimulatedAttester(key, measurement=code)


def verifier() -> SimulatedVerifier:
    return SimulatedVerifier((PUBLIC,))


def server(job: bytes = JOB, site: str = SITE, **kwargs: SimulatedAttester) -> ServerHandshake:
    own = kwargs.get("own") or attester()
    return ServerHandshake(job, site, own, verifier(), simulated_policy(CODE))


def client(job: bytes = JOB, site: str = SITE, **kwargs: SimulatedAttester) -> ClientHandshake:
    own = kwargs.get("own") or attester()
    return ClientHandshake(job, site, own, verifier(), simulated_policy(CODE))


def shake_hands(job: bytes = JOB, site: str = SITE) -> tuple[Established, Established]:
    """A handshake without interference: the server's and the client's channel."""
    at_server, at_client = server(job, site), client(job, site)
    reply = at_server.on_hello(at_client.on_challenge(at_server.challenge()))
    last, client_side = at_client.on_server_hello(reply)
    return at_server.on_client_key(last), client_side
