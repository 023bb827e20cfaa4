"""The sealed channel between enclaves: attested handshake, key release, sealed messages.

Trust domain: every enclave, and data owners who release keys.
"""

from sealtune.channel.handshake import (
    ClientHandshake,
    Established,
    ServerHandshake,
    client_role,
    is_challenge,
)
from sealtune.channel.hpke import KeyPair, seal_key
from sealtune.channel.sealed import SealedSession, message_round
from sealtune.channel.stream import sealed_size

__all__ = [
    "ClientHandshake",
    "Established",
    "KeyPair",
    "SealedSession",
    "ServerHandshake",
    "client_role",
    "is_challenge",
    "message_round",
    "seal_key",
    "sealed_size",
]
