"""The handshake without an attacker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from sealtune import frames
from sealtune.attest import AppraisalPolicy, Claims, Evidence, Kind, KindPolicy
from sealtune.attest.errors import GpuEvidenceError, NonceReusedError, WrongReportDataError
from sealtune.channel import handshake
from sealtune.channel.client import ClientHandshake, is_challenge
from sealtune.channel.handshake import Established
from sealtune.channel.server import ServerHandshake
from sealtune.errors import ChannelError, FrameError, SealError
from tests.channel import parties


def test_both_ends_get_matching_channels() -> None:
    server, client = parties.shake_hands()
    assert server.transcript == client.transcript
    for round_ in range(3):
        down = server.outgoing.seal(b"global adapter", round_)
        assert client.incoming.open(down, round_) == b"global adapter"
        up = client.outgoing.seal(b"update", round_)
        assert server.incoming.open(up, round_) == b"update"


def test_peer_claims_say_simulated_and_not_confidential() -> None:
    for side in parties.shake_hands():
        assert side.peer.kind is Kind.SIMULATED
        assert side.peer.confidential is False
        assert side.peer.measurement == parties.CODE.hex()
        assert side.peer.signer == parties.PUBLIC.hex()


def test_directions_have_different_keys() -> None:
    server, _ = parties.shake_hands()
    with pytest.raises(SealError, match="another job, sender or receiver"):
        server.incoming.open(server.outgoing.seal(b"x", 0), 0)


def test_nothing_repeats_between_handshakes() -> None:
    first, second = parties.server(), parties.server()
    assert first.challenge() != second.challenge()
    one, two = parties.shake_hands()[0], parties.shake_hands()[1]
    assert one.transcript != two.transcript
    with pytest.raises(SealError):
        two.incoming.open(one.outgoing.seal(b"x", 0), 0)


def test_secrets_do_not_travel_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    real = __import__("secrets").token_bytes

    def record(count: int) -> bytes:
        drawn.append(real(count))
        return drawn[-1]

    monkeypatch.setattr("sealtune.channel.handshake.secrets.token_bytes", record)
    server, client = parties.server(), parties.client()
    messages = [server.challenge()]
    messages.append(client.on_challenge(messages[-1]))
    messages.append(server.on_hello(messages[-1]))
    messages.append(client.on_server_hello(messages[-1])[0])
    wire = b"".join(messages)
    nonces, shares = drawn[:2], drawn[2:]
    assert len(shares) == 2
    assert all(nonce.hex().encode() in wire for nonce in nonces)
    assert all(s not in wire and s.hex().encode() not in wire for s in shares)


def test_each_step_runs_once_and_in_order() -> None:
    server, client = parties.server(), parties.client()
    with pytest.raises(NonceReusedError):
        parties.server().on_hello(b"")
    challenge = server.challenge()
    with pytest.raises(NonceReusedError):
        server.challenge()
    hello = client.on_challenge(challenge)
    with pytest.raises(NonceReusedError):
        client.on_challenge(challenge)
    reply = server.on_hello(hello)
    with pytest.raises(NonceReusedError):
        server.on_hello(hello)
    last, _ = client.on_server_hello(reply)
    server.on_client_key(last)
    with pytest.raises(NonceReusedError):
        server.on_client_key(last)


def test_a_refusal_ends_the_handshake() -> None:
    server, client = parties.server(), parties.client()
    hello = client.on_challenge(server.challenge())
    with pytest.raises(ChannelError):
        server.on_hello(b"garbage")
    with pytest.raises(NonceReusedError, match="failed"):
        server.on_hello(hello)


def test_challenge_is_recognised() -> None:
    server, client = parties.server(), parties.client()
    challenge = server.challenge()
    assert is_challenge(challenge)
    assert not is_challenge(client.on_challenge(challenge))
    assert not is_challenge(b"")


class WithGpu:
    """Attester and verifier of an imaginary TEE whose evidence is its report data."""

    kind = Kind.TDX

    def __init__(self, gpu: bytes = b"gpu:") -> None:
        self.gpu = gpu

    def collect(self, report_data: bytes) -> Evidence:
        return Evidence(Kind.TDX, report_data)

    def collect_gpu(self, nonce: bytes) -> bytes:
        return self.gpu and self.gpu + nonce

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        policy.for_kind(evidence.kind)
        prefix = b"gpu:" if evidence.kind is Kind.NVIDIA_GPU else b""
        if evidence.data != prefix + report_data:
            raise WrongReportDataError("another nonce")
        return Claims(
            kind=evidence.kind,
            confidential=True,
            measurement="00",
            tcb_status="UpToDate",
            debug=False,
            report_data=report_data.hex(),
            verified_at=at,
        )


GPU_POLICY = AppraisalPolicy(
    kinds={
        Kind.TDX: KindPolicy(measurements="any"),
        Kind.NVIDIA_GPU: KindPolicy(measurements=("00",)),
    },
    gpu_required=True,
)


def with_gpu(server_gpu: bytes = b"gpu:") -> tuple[ServerHandshake, ClientHandshake]:
    own, peer = WithGpu(server_gpu), WithGpu()
    return (
        ServerHandshake(parties.JOB, "a", own, own, GPU_POLICY),
        ClientHandshake(parties.JOB, "a", peer, peer, GPU_POLICY),
    )


def test_gpus_are_challenged_with_the_same_handshake() -> None:
    server, client = with_gpu()
    reply = server.on_hello(client.on_challenge(server.challenge()))
    last, at_client = client.on_server_hello(reply)
    at_server = server.on_client_key(last)
    for side in (at_server, at_client):
        assert [claims.kind for claims in side.peer.gpu] == [Kind.NVIDIA_GPU]
    nonces = {side.peer.gpu[0].report_data for side in (at_server, at_client)}
    assert len(nonces) == 2


@pytest.mark.parametrize(
    ("gpu", "error"), [(b"", GpuEvidenceError), (b"old:", WrongReportDataError)]
)
def test_gpu_missing_or_of_another_challenge(gpu: bytes, error: type[Exception]) -> None:
    server, client = with_gpu(gpu)
    reply = server.on_hello(client.on_challenge(server.challenge()))
    with pytest.raises(error):
        client.on_server_hello(reply)


def test_gpu_evidence_cannot_be_exchanged_on_the_way() -> None:
    server, client = with_gpu()
    reply = frames.decode(server.on_hello(client.on_challenge(server.challenge())))
    evidence = Evidence.decode(bytes(reply.body))
    swapped = replace(evidence, gpu=evidence.gpu + b"x").encode()
    with pytest.raises(WrongReportDataError):
        client.on_server_hello(frames.encode(frames.Frame(reply.kind, reply.meta, swapped)))


def changed(message: bytes, *, body: bytes | None = None, **meta: object) -> bytes:
    frame = frames.decode(message)
    fields = {name: value for name, value in {**frame.meta, **meta}.items() if value is not None}
    return frames.encode(frames.Frame(frame.kind, fields, frame.body if body is None else body))


def conversation(change: Callable[[int, bytes], bytes]) -> Established:
    """A handshake in which ``change`` sees each of the four messages."""
    server, client = parties.server(), parties.client()
    hello = client.on_challenge(change(0, server.challenge()))
    last, _ = client.on_server_hello(change(2, server.on_hello(change(1, hello))))
    return server.on_client_key(change(3, last))


@pytest.mark.parametrize("step", [0, 3])
def test_messages_without_a_body(step: int) -> None:
    with pytest.raises(FrameError, match="has a body"):
        conversation(lambda at, message: changed(message, body=b"x") if at == step else message)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("meta", [{"version": 1}, {"version": 3}, {"version": None}, {"more": "x"}])
def test_another_version_or_other_fields(step: int, meta: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match="another version, or with other fields"):
        conversation(lambda at, message: changed(message, **meta) if at == step else message)


TWINS: dict[str, Callable[[str], object]] = {
    "longer": lambda old: old + "00",
    "shorter": lambda old: old[2:],
    "half a byte": lambda old: old[:-1],
    "no hex": lambda old: "g" + old[1:],
    "upper case": lambda old: "AB" + old[2:],
    "a space": lambda old: old[:2] + " " + old[2:],
    "a number": lambda old: 7,
    "not there": lambda old: None,
}


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(
    ("step", "name"),
    [
        (0, "nonce"),
        (0, "job_id"),
        (1, "nonce"),
        (1, "public_key"),
        (2, "public_key"),
        (2, "sealed_key"),
        (3, "sealed_key"),
        (3, "confirmation"),
    ],
)
def test_every_field_has_one_size_and_one_spelling(step: int, name: str, twin: str) -> None:
    """No message has a twin that says the same in other bytes."""

    def change(at: int, message: bytes) -> bytes:
        if at != step:
            return message
        return changed(message, **{name: TWINS[twin](frames.decode(message).meta[name])})

    with pytest.raises(FrameError, match=r"lower-case hex|other fields"):
        conversation(change)


def test_the_sizes_of_the_handshake() -> None:
    sizes = (handshake.SHARE_SIZE, handshake.CONFIRMATION_SIZE, handshake.JOB_ID_SIZE)
    assert sizes == (32, 48, 48)
    assert handshake.SEALED_SHARE == 1088 + 32 + 32 + 16


def test_another_job_is_named() -> None:
    server, client = parties.server(parties.OTHER_JOB), parties.client()
    with pytest.raises(ChannelError, match="asks for job 0000000000000000…, this site takes part"):
        client.on_challenge(server.challenge())


def test_key_material_goes_with_the_handshake() -> None:
    """What could open the shares of a recorded conversation is in neither object afterwards."""
    server, client = parties.server(), parties.client()
    reply = server.on_hello(client.on_challenge(server.challenge()))
    last, _ = client.on_server_hello(reply)
    server.on_client_key(last)
    for side in (server, client):
        assert not {"_pair", "_share"} & set(vars(side))


def test_job_ids_have_one_size() -> None:
    with pytest.raises(ChannelError, match="48 bytes"):
        ServerHandshake(
            b"short",
            "a",
            parties.attester(),
            parties.verifier(),
            parties.simulated_policy(parties.CODE),
        )
