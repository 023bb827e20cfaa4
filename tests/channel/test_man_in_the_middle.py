"""Somebody between client and server, with every message in hand. Each attack is carried out."""

from __future__ import annotations

import hashlib
import random
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune import frames
from sealtune.attest import Evidence
from sealtune.attest.errors import (
    UnknownMeasurementError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.evidence import DOMAIN, report_data
from sealtune.attest.platforms.participant import (
    ParticipantAttester,
    ParticipantVerifier,
    participant_policy,
)
from sealtune.channel.client import ClientHandshake
from sealtune.channel.handshake import VERSION, Established, client_role
from sealtune.channel.hpke import KeyPair, seal_key
from sealtune.channel.sealed import NO_CHANNEL
from sealtune.channel.server import ServerHandshake
from sealtune.errors import ChannelError, FrameError, KeyReleaseError, SealtuneError
from sealtune.frames import length_prefixed
from sealtune.job.events import Event
from sealtune.party.site_program import SiteProgram
from sealtune.party.trust import Trust
from tests.channel import parties


def altered(message: bytes, *, kind: str | None = None, body: bytes | None = None, **meta: Any):
    """``message`` with other fields."""
    frame = frames.decode(message)
    return frames.encode(
        frames.Frame(
            kind or frame.kind, {**frame.meta, **meta}, frame.body if body is None else body
        )
    )


def context(peer: str, *messages: bytes) -> bytes:
    """What evidence covers of a conversation: whom it is made for, and what came before it."""
    return hashlib.sha384(length_prefixed(peer.encode(), *messages)).digest()


def client_data(site: str, challenge: bytes, key: bytes) -> bytes:
    """What a client's evidence with this public key is made over."""
    return report_data(
        DOMAIN,
        client_role(site),
        nonce=field(challenge, "nonce"),
        job_id=parties.JOB,
        public_key=key,
        context=context("server", challenge),
    )


def chosen_half(key: bytes, bound: bytes, purpose: str) -> bytes:
    """A half of the session's keys that the attacker knows: 32 zeros, rightly sealed."""
    return seal_key(key, bytes(32), job_id=parties.JOB, report_data=bound, purpose=purpose)


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
    bound = client_data(parties.SITE, challenge, field(hello, "public_key"))
    assert Evidence.decode(frames.decode(hello).body).data.find(bound) > 0, "the forgery is right"
    share = chosen_half(field(hello, "public_key"), bound, "server-share")
    forged = frames.encode(
        frames.Frame(
            "server-hello",
            {
                "version": VERSION,
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
    bound = client_data(parties.SITE, challenge, field(hello, "public_key"))
    chosen = chosen_half(field(hello, "public_key"), bound, "server-share")
    last, _ = client.on_server_hello(altered(reply, sealed_key=chosen.hex()))
    with pytest.raises(KeyReleaseError, match="saw different messages"):
        server.on_client_key(last)


def test_client_half_replaced_by_the_attacker() -> None:
    server, client = parties.server(), parties.client()
    challenge = server.challenge()
    hello = client.on_challenge(challenge)
    reply = server.on_hello(hello)
    last, _ = client.on_server_hello(reply)
    bound = report_data(
        DOMAIN,
        "server",
        nonce=field(hello, "nonce"),
        job_id=parties.JOB,
        public_key=field(reply, "public_key"),
        context=context(client_role(parties.SITE), challenge, hello),
    )
    chosen = chosen_half(field(reply, "public_key"), bound, "client-share")
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


# ---- a participant who controls the network ------------------------------------------------------


class Owner:
    """A site without a TEE: it proves itself with its organisation's key."""

    def __init__(self, site: str) -> None:
        self.site = site
        self.key = Ed25519PrivateKey.generate()

    @property
    def attester(self) -> ParticipantAttester:
        return ParticipantAttester(self.key)

    def client(self) -> ClientHandshake:
        policy = parties.simulated_policy(parties.CODE)
        return ClientHandshake(parties.JOB, self.site, self.attester, parties.verifier(), policy)

    def server(self) -> ServerHandshake:
        """The server enclave's end for this site."""
        policy = participant_policy(self.key.public_key().public_bytes_raw().hex())
        verifier = ParticipantVerifier()
        return ServerHandshake(parties.JOB, self.site, parties.attester(), verifier, policy)


def lure(eve: Owner, challenge: bytes, victim_hello: bytes) -> tuple[bytes, KeyPair]:
    """Eve's own hello, honestly signed, that makes the server answer the victim's nonce."""
    pair = KeyPair.generate()
    bound = client_data(eve.site, challenge, pair.public_bytes)
    fields = {"nonce": field(victim_hello, "nonce"), "public_key": pair.public_bytes}
    meta = {"version": VERSION, **{name: value.hex() for name, value in fields.items()}}
    evidence = eve.attester.collect(bound).encode()
    return frames.encode(frames.Frame("client-hello", meta, evidence)), pair


def attack(victim_end: ClientHandshake, alice: Owner) -> bytes:
    """What Eve sends Alice in the server's name: its own evidence, and a half that she chose."""
    eve = Owner("eve")
    server = eve.server()  # the server believes, rightly, that it talks to Eve
    challenge = server.challenge()
    hello = victim_end.on_challenge(challenge)  # nonces are public: Alice is asked the same
    own_hello, _ = lure(eve, challenge, hello)
    reply = server.on_hello(own_hello)
    bound = client_data(alice.site, challenge, field(hello, "public_key"))
    half = chosen_half(field(hello, "public_key"), bound, "server-share")
    return altered(reply, sealed_key=half.hex())


def test_evidence_that_the_server_made_for_another_participant() -> None:
    """Alice must not come to believe that she has a channel with the server, who talks to Eve."""
    alice = Owner("alice")
    end = alice.client()
    with pytest.raises(WrongReportDataError):
        end.on_server_hello(attack(end, alice))


def test_evidence_for_another_hello_of_the_same_participant() -> None:
    alice = Owner("alice")
    server, end = alice.server(), alice.client()
    challenge = server.challenge()
    hello = end.on_challenge(challenge)
    twin, _ = lure(alice, challenge, hello)  # her own key, her own nonce, another key pair
    with pytest.raises(WrongReportDataError):
        end.on_server_hello(server.on_hello(twin))


class Silent:
    """A worker that answers whatever it is asked."""

    def answer(self, question: frames.Frame) -> frames.Frame:
        return frames.Frame("metrics", {"round": question.meta["round"]})


def program(alice: Owner, events: list[str]) -> SiteProgram:
    trust = Trust(alice.attester, parties.verifier(), parties.simulated_policy(parties.CODE))

    def emit(event: Event) -> None:
        events.append(event.event)

    admitted: Any = SimpleNamespace(
        continuity=None, job_id=parties.JOB.hex(), site=alice.site, trust={"server": trust}
    )
    return SiteProgram(admitted, Silent(), emit)


def connect(site: SiteProgram, server: ServerHandshake) -> Established:
    hello = site.deliver(server.challenge())
    return server.on_client_key(site.deliver(server.on_hello(hello)))


def question(channel: Established, round_: int) -> bytes:
    return channel.outgoing.seal(frames.encode(frames.Frame("evaluate", {"round": round_})), round_)


def test_a_working_channel_stays_until_the_server_shows_that_it_has_the_new_one() -> None:
    """A handshake that the server never finished must not cost the site its channel."""
    alice, events = Owner("alice"), []
    site = program(alice, events)
    channel = connect(site, alice.server())
    assert events == []  # the server has not shown yet that it has the channel
    site.deliver(question(channel, 0))
    assert events == ["attested"]
    # a network that lets a handshake run up to the client's last message, and keeps that
    server = alice.server()
    site.deliver(server.on_hello(site.deliver(server.challenge())))
    assert site.deliver(question(channel, 1))  # the old channel still works
    assert events == ["attested"]
    newer = connect(site, alice.server())
    site.deliver(question(newer, 2))
    assert events == ["attested"] * 2
    with pytest.raises(ChannelError):
        site.deliver(question(channel, 3))  # and now the old one is gone


def test_nothing_but_the_servers_message_confirms_a_channel() -> None:
    alice, events = Owner("alice"), []
    site = program(alice, events)
    other = connect(program(alice, []), alice.server())  # another process of hers
    site.deliver(alice.server().challenge())
    for forged in (b"", b"STSS" + bytes(400)):
        with pytest.raises(ChannelError):
            site.deliver(forged)
    assert site.deliver(question(other, 0)) == NO_CHANNEL  # which is all that there is to say
    channel = connect(site, alice.server())
    for forged in (b"", b"STSS" + bytes(400), question(other, 0)):
        with pytest.raises(ChannelError):
            site.deliver(forged)
    assert events == []
    site.deliver(question(channel, 0))
    assert events == ["attested"]


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("kind", ["challenge", "client-hello", "server-hello", "client-key", "x"])
def test_a_message_of_another_kind_is_refused(step: int, kind: str) -> None:
    """Right fields under another name, at each of the four steps."""
    kinds = ("challenge", "client-hello", "server-hello", "client-key")
    if kind == kinds[step]:
        return
    server, client = parties.server(), parties.client()

    def passed(message: bytes, number: int) -> bytes:
        return altered(message, kind=kind) if number == step else message

    with pytest.raises(FrameError, match=r"where .* was expected"):  # noqa: PT012
        hello = client.on_challenge(passed(server.challenge(), 0))
        reply = server.on_hello(passed(hello, 1))
        last, _ = client.on_server_hello(passed(reply, 2))
        server.on_client_key(passed(last, 3))
