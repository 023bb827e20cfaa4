"""Bytes from outside: no exception but ours, no hang, memory bounded.

Two ways: hypothesis builds messages with some structure, and real messages are mutated 25,000
times per parser (`SEALTUNE_FUZZ` sets another number).
"""

from __future__ import annotations

import contextlib
import os
import random
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune import frames
from sealtune.attest import Evidence
from sealtune.channel.client import is_challenge
from sealtune.channel.sealed import SealedSession, message_round
from sealtune.channel.stream import Header
from sealtune.errors import SealtuneError
from tests.channel import parties

COUNT = int(os.environ.get("SEALTUNE_FUZZ", "25000"))

_server, _client = parties.server(), parties.client()
CHALLENGE = _server.challenge()
HELLO = _client.on_challenge(CHALLENGE)
REPLY = _server.on_hello(HELLO)
LAST = _client.on_server_hello(REPLY)[0]
MESSAGES = [CHALLENGE, HELLO, REPLY, LAST]

CONTEXT = {"job_id": bytes(48), "sender": "a", "receiver": "b"}
SECRET = bytes(32)


def sealed(size: int) -> bytes:
    return SealedSession(SECRET, mode="seal", chunk_size=4096, **CONTEXT).seal(bytes(size), 1)


def open_sealed(data: bytes) -> None:
    SealedSession(SECRET, mode="open", **CONTEXT).open(data, message_round(data))


def take_challenge(data: bytes) -> None:
    parties.client().on_challenge(data)


def take_hello(data: bytes) -> None:
    server = parties.server()
    server.challenge()
    server.on_hello(data)


def take_server_hello(data: bytes) -> None:
    client = parties.client()
    client.on_challenge(CHALLENGE)
    client.on_server_hello(data)


EVIDENCE = Evidence.decode(bytes(frames.decode(HELLO).body)).encode()
PARSERS: dict[str, tuple[Callable[[bytes], object], list[bytes], int]] = {
    "frame": (frames.decode, MESSAGES, COUNT),
    "evidence": (Evidence.decode, [EVIDENCE], COUNT),
    "sealed header": (Header.unpack, [sealed(0)], COUNT),
    "sealed message": (open_sealed, [sealed(0), sealed(10), sealed(9000)], COUNT),
    "is_challenge": (is_challenge, MESSAGES, COUNT // 5),
    "client hello": (take_hello, [HELLO], COUNT // 5),
    "challenge": (take_challenge, [CHALLENGE], COUNT // 50),  # makes keys where it succeeds
    "server hello": (take_server_hello, [REPLY], COUNT // 50),
}


def mutate(draw: random.Random, seed: bytes) -> bytes:
    """A few of: flip bits, overwrite a field with an extreme number, cut, repeat, insert."""
    data = bytearray(seed)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 1:
                extreme = draw.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * draw.choice([1, 4, 8])
                data[at : at + len(extreme)] = extreme
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw.randrange(40)]
            case 4:
                data[at:at] = data[draw.randrange(len(data) + 1) :][:200]
            case _:
                data[at:at] = draw.randbytes(draw.randrange(20))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_messages(name: str) -> None:
    parse, seeds, count = PARSERS[name]
    draw = random.Random(name)
    for _ in range(count):
        with contextlib.suppress(SealtuneError):
            parse(mutate(draw, draw.choice(seeds)))


@pytest.mark.parametrize("name", PARSERS)
def test_memory_is_bounded(name: str) -> None:
    """No length field makes a parser allocate more than a few chunks."""
    parse, seeds, _ = PARSERS[name]
    draw = random.Random(name)
    tracemalloc.start()
    for _ in range(200):
        with contextlib.suppress(SealtuneError):
            parse(mutate(draw, draw.choice(seeds)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
fields = st.sampled_from(
    ["version", "nonce", "job_id", "public_key", "sealed_key", "confirmation", "kind", "other"]
)
values = json_values | st.binary(max_size=64).map(bytes.hex) | st.just("0" * 2432) | st.just(1)
kinds = st.sampled_from(["challenge", "client-hello", "server-hello", "client-key", ""])


@settings(max_examples=300, deadline=None)
@given(kinds, st.dictionaries(fields, values, max_size=6), st.binary(max_size=200))
def test_well_formed_frames_with_any_content(
    kind: str, meta: dict[str, object], body: bytes
) -> None:
    meta = {name: value for name, value in meta.items() if name != "kind"}
    raw = frames.encode(frames.Frame(kind, meta, body))
    for parse in (take_challenge, take_hello, take_server_hello, is_challenge):
        with contextlib.suppress(SealtuneError):
            parse(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_raw_bytes(data: bytes) -> None:
    for parse, _, _ in PARSERS.values():
        with contextlib.suppress(SealtuneError):
            parse(data)
