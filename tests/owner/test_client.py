"""Who may ask, and whom a client believes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.channel.server import ServerHandshake
from sealtune.enclave.trust import split_server_trust
from sealtune.errors import AttestationError, UnknownKeyError
from sealtune.owner.client import SplitClient
from tests.enclave.split_flow import KEYS, SplitFederation


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), KEYS["south"]])
def test_a_wrong_key_is_refused(classes: SplitFederation, key: Ed25519PrivateKey) -> None:
    with pytest.raises(UnknownKeyError, match="not the one of 'north'"):
        SplitClient(classes.resolved, "north", key)


def test_whoever_is_not_the_attested_server_gets_no_question(classes: SplitFederation) -> None:
    """A participant carries the bytes and poses as the server enclave."""
    client = SplitClient(classes.resolved, "north", KEYS["north"])
    server = split_server_trust(classes.resolved)["north"]
    liar = classes.sites["south"]._trust.attester
    fake = ServerHandshake(
        bytes.fromhex(classes.resolved.job_id), "north", liar, server.verifier, server.policy
    )
    sent: list[bytes] = []

    def carry(deliver: Callable[[bytes], bytes]) -> None:
        sent.append(deliver(fake.challenge()))
        sent.append(deliver(fake.on_hello(sent[0])))

    with pytest.raises(AttestationError):
        client.classify(["acute angina"], carry)
    assert len(sent) == 1
