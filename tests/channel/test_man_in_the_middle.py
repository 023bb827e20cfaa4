"""Somebody between client and server, with every message in hand. Each attack is carried out."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune import frames
from sealtune.attest import DOMAIN, Evidence, report_data
from sealtune.attest.errors import (
    UnknownMeasurementError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.channel import KeyPair, client_role, seal_key
from sealtune.errors import ChannelError, FrameError, KeyReleaseError, SealtuneError
from tests.channel import parties


def altered(message: bytes, *, kind: str | None = None, body: bytes | None = None, **meta: Any):
    """``message`` with other fields."""
    frame = frames.decode(message)
    return frames.encode(
        frames.Frame(
            kind or frame.kind, {**frame.meta, **meta}, frame.body if body is None else body
        )
    )


def field(message: bytes, name: str) -> bytes:
    return bytes.fromhex(frames.decode(message).meta[name])


def test_swapped_client_key() -> None:
    server, client, mallory = parties.server(), parties.client(), KeyPair.generate()
    hello = client.on_challenge(server.challenge())
    with pytest.raises(WrongReportDataError):
        server.on_hello(altered(hello, public_key=mallory.public_bytes.hex()))


def test_swapped_server_key() -> None:
    server, client, mallory = parties.server(), parties.client(), KeyPair.generate()
    reply = server.on_hello(client.on_challenge(server.challenge()))
    with pytest.raises(WrongReportDataError):
        client.on_server_hello(altered(reply, public_key=mallory.public_bytes.hex()))


def test_swapped_key_with_evidence_signed_by_the_attacker() -> None:
    server, client = parties.server(), parties.client()
    liar = parties.client(own=parties.attester(Ed25519PrivateKey.generate()))
    challenge = server.challenge()
    client.on_challenge(challenge)
    with pytest.raises(UnknownSignerError):
        server.on_hello(liar.on_challenge(challenge))


@pytest.mark.parametrize("side", ["client", "server"])
def test_enclave_with_other_code(side: str) -> None:
    changed = parties.attester(code=b"\x22" * 48)
    server = parties.server(own=changed) if side == "server" else parties.server()
    client = parties.client(own=changed) if side == "client" else parties.client()
    hello = client.on_challenge(server.challenge())
    if side == "client":
        with pytest.raises(UnknownMeasurementError):
            server.on_hello(hello)
    else:
        with pytest.raises(UnknownMeasurementError):
            client.on_server_hello(server.on_hello(hello))


def test_replayed_client_hello() -> None:
    first, client = parties.server(), parties.client()
    recorded = client.on_challenge(first.challenge())
    first.on_hello(recorded)
    second = parties.server()
    second.challenge()
    with pytest.raises(WrongReportDataError):
        second.on_hello(recorded)


def test_replayed_server_hello() -> None:
    server, client = parties.server(), parties.client()
    recorded = server.on_hello(client.on_challenge(server.challenge()))
    again = parties.client()
    again.on_challenge(parties.server().challenge())
    with pytest.raises(WrongReportDataError):
        again.on_server_hello(recorded)


def test_replayed_client_key() -> None:
    server, client = parties.server(), parties.client()
    reply = server.on_hello(client.on_challenge(server.challenge()))
    recorded, _ = client.on_server_hello(reply)
    second, other = parties.server(), parties.client()
    second.on_hello(other.on_challenge(second.challenge()))
    with pytest.raises(KeyReleaseError):
        second.on_client_key(recorded)


def test_client_evidence_of_another_job() -> None:
    """A client in job B answers the nonce of job A; its answer is relayed to the server of A."""
    server, elsewhere = parties.server(parties.JOB), parties.client(parties.OTHER_JOB)
    challenge = server.challenge()
    with pytest.raises(ChannelError, match="asks for job"):
        parties.client(parties.OTHER_JOB).on_challenge(challenge)
    hello = elsewhere.on_challenge(altered(challenge, job_id=parties.OTHER_JOB.hex()))
    with pytest.raises(WrongReportDataError):
        server.on_hello(hello)


def test_server_evidence_of_another_job() -> None:
    """The server of job B, asked with the nonce of a client in job A."""
    client, elsewhere = parties.client(parties.JOB), parties.server(parties.OTHER_JOB)
    hello = client.on_challenge(parties.server(parties.JOB).challenge())
    helper = parties.client(parties.OTHER_JOB)
    other_hello = helper.on_challenge(elsewhere.challenge())
    # The relay needs a hello that server B accepts, yet with the nonce of the victim.
    reply = elsewhere.on_hello(altered(other_hello, nonce=field(hello, "nonce").hex()))
    with pytest.raises(WrongReportDataError):
        client.on_server_hello(reply)


def test_client_evidence_of_another_site() -> None:
    server, neighbour = parties.server(site="clinic-a"), parties.client(site="clinic-b")
    with pytest.raises(WrongReportDataError):
        server.on_hello(neighbour.on_challenge(server.challenge()))


def test_wrong_nonce_to_the_client() -> None:
    server, client = parties.server(), parties.client()
    challenge = altered(server.challenge(), nonce=bytes(32).hex())
    with pytest.raises(WrongReportDataError):
        server.on_hello(client.on_challenge(challenge))


def test_wrong_nonce_to_the_server() -> None:
    server, client = parties.server(), parties.client()
    hello = client.on_challenge(server.challenge())
    reply = server.on_hello(altered(hello, nonce=bytes(32).hex()))
    with pytest.raises(WrongReportDataError):
        client.on_server_hello(reply)


def test_reflected_messages() -> None:
    server, client = parties.server(), parties.client()
    challenge = server.challenge()
    hello = client.on_challenge(challenge)
    with pytest.raises(FrameError):
        client.on_server_hello(hello)
    with pytest.raises(FrameError):
        server.on_hello(challenge)


def test_evidence_of_a_client_passed_off_as_the_server() -> None:
    """A second client answers the victim's nonce; only the role in the report data differs."""
    victim, accomplice = parties.client(), parties.client()
    challenge = parties.server().challenge()
    hello = victim.on_challenge(challenge)
    answer = accomplice.on_challenge(altered(challenge, nonce=field(hello, "nonce").hex()))
    bound = report_data(
        DOMAIN,
        client_role(parties.SITE),
        nonce=field(challenge, "nonce"),
        job_id=parties.JOB,
        public_key=field(hello, "public_key"),
    )
    assert Evidence.decode(frames.decode(hello).body).data.find(bound) > 0, "the forgery is right"
    share = seal_key(
        field(hello, "public_key"),
        bytes(32),
        job_id=parties.JOB,
        report_data=bound,
        purpose="server-share",
    )
    forged = frames.encode(
        frames.Frame(
            "server-hello",
            {
                "version": 1,
                "public_key": field(answer, "public_key").hex(),
                "sealed_key": share.hex(),
            },
            frames.decode(answer).body,
        )
    )
    with pytest.raises(WrongReportDataError):
        victim.on_server_hello(forged)


def test_key_half_chosen_by_the_attacker() -> None:
    """Anyone can seal to the client's public key. It gains nothing, and the server sees it."""
    server, client = parties.server(), parties.client()
    challenge = server.challenge()
    hello = client.on_challenge(challenge)
    reply = server.on_hello(hello)
    bound = report_data(
        DOMAIN,
        client_role(parties.SITE),
        nonce=field(challenge, "nonce"),
        job_id=parties.JOB,
        public_key=field(hello, "public_key"),
    )
    chosen = seal_key(
        field(hello, "public_key"),
        bytes(32),
        job_id=parties.JOB,
        report_data=bound,
        purpose="server-share",
    )
    last, _ = client.on_server_hello(altered(reply, sealed_key=chosen.hex()))
    with pytest.raises(KeyReleaseError, match="saw different messages"):
        server.on_client_key(last)


def test_client_half_replaced_by_the_attacker() -> None:
    server, client = parties.server(), parties.client()
    hello = client.on_challenge(server.challenge())
    reply = server.on_hello(hello)
    last, _ = client.on_server_hello(reply)
    bound = report_data(
        DOMAIN,
        "server",
        nonce=field(hello, "nonce"),
        job_id=parties.JOB,
        public_key=field(reply, "public_key"),
    )
    chosen = seal_key(
        field(reply, "public_key"),
        bytes(32),
        job_id=parties.JOB,
        report_data=bound,
        purpose="client-share",
    )
    with pytest.raises(KeyReleaseError, match="saw different messages"):
        server.on_client_key(altered(last, sealed_key=chosen.hex()))


def test_key_half_of_another_purpose() -> None:
    server, client = parties.server(), parties.client()
    reply = server.on_hello(client.on_challenge(server.challenge()))
    last, _ = client.on_server_hello(reply)
    with pytest.raises(KeyReleaseError):
        server.on_client_key(altered(last, sealed_key=field(reply, "sealed_key").hex()))


def test_every_single_bit_counts() -> None:
    """One flipped bit anywhere in the four messages: the server never gets a channel."""
    draw = random.Random(3)
    for _ in range(300):
        server, client = parties.server(), parties.client()
        target = draw.randrange(4)

        def flip(message: bytes, number: int, target: int = target) -> bytes:
            if number != target:
                return message
            place = draw.randrange(8 * len(message))
            changed = bytearray(message)
            changed[place // 8] ^= 1 << place % 8
            return bytes(changed)

        with pytest.raises(SealtuneError):  # noqa: PT012  # any step may be the one that refuses
            hello = client.on_challenge(flip(server.challenge(), 0))
            reply = server.on_hello(flip(hello, 1))
            last, _ = client.on_server_hello(flip(reply, 2))
            server.on_client_key(flip(last, 3))
