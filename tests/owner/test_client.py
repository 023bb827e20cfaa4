"""Who may ask, and whom a client believes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sealtune.channel.server import ServerHandshake
from sealtune.errors import AttestationError, UnknownKeyError
from sealtune.job.key_files import new_key
from sealtune.owner.client import SplitClient
from sealtune.party.admit import admit
from sealtune.plan.roles import OWNER_ASKING
from tests.enclave.split_flow import SplitFederation


@pytest.mark.parametrize("whose", ["a stranger", "south"])
def test_a_wrong_key_is_refused(classes: SplitFederation, tmp_path: Path, whose: str) -> None:
    key = new_key("stranger", tmp_path)[0]
    if whose == "south":
        key = classes.parties["south"].key or key
    local = classes.parties["north"].model_copy(update={"key": key})
    with pytest.raises(UnknownKeyError, match="not the one of 'north'"):
        admit(local, OWNER_ASKING)


def test_whoever_is_not_the_attested_server_gets_no_question(classes: SplitFederation) -> None:
    """A participant carries the bytes and poses as the server enclave."""
    client = SplitClient(admit(classes.parties["north"], OWNER_ASKING))
    server = classes.resolved.trust["north"]
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
