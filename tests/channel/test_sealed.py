"""Sealed messages: round trips, and everything that must be refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.channel.sealed import SealedSession, message_round
from sealtune.channel.stream import HEADER_SIZE, LAYOUT, MIN_CHUNK, TAG, Header, sealed_size
from sealtune.errors import SealError

SECRET = bytes(range(32))
CHUNK = MIN_CHUNK


def session(mode: str, **change: Any) -> SealedSession:
    settings_: dict[str, Any] = {
        "job_id": b"j" * 48,
        "sender": "server",
        "receiver": "client:a",
        "chunk_size": CHUNK,
        **change,
    }
    return SealedSession(settings_.pop("secret", SECRET), mode=mode, **settings_)


sizes = st.one_of(
    st.integers(0, 40),
    st.integers(0, 5).flatmap(lambda n: st.integers(-2, 2).map(lambda d: max(0, n * CHUNK + d))),
)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 2**64 - 1))
def test_round_trip_in_memory(size: int, round_: int) -> None:
    plain = random.Random(size).randbytes(size)
    sealed = session("seal").seal(plain, round_)
    assert len(sealed) == sealed_size(size, CHUNK)
    assert message_round(sealed) == round_
    assert session("open").open(sealed, round_) == plain
    assert session("open").open(sealed, message_round(sealed)) == plain


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, max_size=5))
def test_a_chain_of_messages(plan: list[int]) -> None:
    sender, receiver = session("seal"), session("open")
    for round_, size in enumerate(plan):
        assert receiver.open(sender.seal(bytes(size), round_), round_) == bytes(size)
        assert sender.previous == receiver.previous
        assert (sender.sequence, sender.round) == (round_ + 1, round_)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(5000,), (50, 100), (5, 10, 100)])
def test_anything_with_bytes_can_be_sealed(kind: type, shape: tuple[int, ...]) -> None:
    array = np.arange(5000).astype(kind).reshape(shape)
    sealed = session("seal").seal(memoryview(array), 0)
    assert session("open").open(sealed, 0) == array.tobytes()


# ---- refused ------------------------------------------------------------------------------


def refused(receiver_change: dict[str, Any], sealed: bytes, round_: int = 1) -> None:
    with pytest.raises(SealError):
        session("open", **receiver_change).open(sealed, round_)


def test_replay() -> None:
    sender, receiver = session("seal"), session("open")
    first = sender.seal(b"one", 1)
    receiver.open(first, 1)
    with pytest.raises(SealError, match="replayed"):
        receiver.open(first, 1)
    receiver.open(sender.seal(b"two", 1), 1)
    with pytest.raises(SealError, match="replayed"):
        receiver.open(first, 1)


def test_reorder_and_omission() -> None:
    sender, receiver = session("seal"), session("open")
    first, second = sender.seal(b"one", 1), sender.seal(b"two", 1)
    with pytest.raises(SealError, match="came before"):
        receiver.open(second, 1)
    assert receiver.open(first, 1) == b"one", "a refused message leaves the session as it was"
    assert receiver.open(second, 1) == b"two"


def test_message_of_another_history() -> None:
    """Right key and number, but the sender's previous message was another one."""
    forked, sender, receiver = session("seal"), session("seal"), session("open")
    forked.seal(b"other", 1)
    receiver.open(sender.seal(b"one", 1), 1)
    with pytest.raises(SealError, match="another history"):
        receiver.open(forked.seal(b"two", 1), 1)


@pytest.mark.parametrize("size", [0, 10, CHUNK, 3 * CHUNK + 5])
def test_truncation(size: int) -> None:
    sealed = session("seal").seal(bytes(size), 1)
    cuts = {len(sealed) - 1, HEADER_SIZE, HEADER_SIZE - 1, 0}
    cuts |= set(range(HEADER_SIZE, len(sealed), CHUNK + TAG))  # at the seams of the chunks
    cuts |= {cut + 1 for cut in cuts if cut + 1 < len(sealed)}
    for cut in cuts:
        refused({}, sealed[:cut])


@pytest.mark.parametrize("size", [0, 10, CHUNK, 2 * CHUNK])
def test_something_appended(size: int) -> None:
    sealed = session("seal").seal(bytes(size), 1)
    for extra in (b"\0", bytes(TAG), sealed[HEADER_SIZE:], sealed):
        refused({}, sealed + extra)


def test_chunks_reordered_dropped_repeated() -> None:
    step = CHUNK + TAG
    sealed = session("seal").seal(bytes(4 * CHUNK), 1)
    head, body = sealed[:HEADER_SIZE], sealed[HEADER_SIZE:]
    chunks = [body[i : i + step] for i in range(0, len(body), step)]
    for order in ([1, 0, 2, 3], [0, 2, 3], [0, 1, 3], [0, 0, 1, 3], [3, 1, 2, 0], [3], [0, 1, 2]):
        refused({}, head + b"".join(chunks[i] for i in order))


def test_chunk_of_another_message() -> None:
    one, two = (session("seal").seal(bytes(2 * CHUNK), 1) for _ in range(2))
    refused({}, one[: HEADER_SIZE + CHUNK + TAG] + two[HEADER_SIZE + CHUNK + TAG :])


def test_bit_flips() -> None:
    sealed = session("seal").seal(bytes(2 * CHUNK + 100), 1)
    draw = random.Random(1)
    places = list(range(8 * HEADER_SIZE)) + [draw.randrange(8 * len(sealed)) for _ in range(600)]
    receiver = session("open")
    for place in places:
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(SealError):
            receiver.open(changed, 1)
    assert receiver.open(sealed, 1) == bytes(2 * CHUNK + 100)


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "client:a", "receiver": "server"},
        {"sender": "client:b"},
        {"receiver": "client:b"},
        {"job_id": b"k" * 48},
        {"secret": bytes(32)},
    ],
)
def test_another_party_job_or_key(change: dict[str, Any]) -> None:
    refused(change, session("seal").seal(b"x", 1))


def test_binding_cannot_be_rewritten() -> None:
    """An attacker who edits the header to fit the receiver still lacks the key for it."""
    sealed = session("seal", sender="client:b").seal(b"x", 1)
    wanted = Header.unpack(session("seal").seal(b"x", 1))
    head = Header.unpack(sealed)
    forged = Header(CHUNK, head.sequence, head.round, wanted.binding, head.previous, head.salt)
    refused({}, forged.pack() + sealed[HEADER_SIZE:])


def test_wrong_round() -> None:
    sealed = session("seal").seal(b"x", 2)
    refused({}, sealed, 1)
    refused({}, sealed, 3)


def test_rounds_never_go_back() -> None:
    sender = session("seal")
    sender.seal(b"x", 5)
    with pytest.raises(SealError, match="comes after round 5"):
        sender.seal(b"y", 4)
    resumed = session("open", round=6)
    with pytest.raises(SealError, match="comes after round 6"):
        resumed.open(session("seal").seal(b"x", 5), 5)


def test_a_resumed_chain_takes_its_round_again() -> None:
    assert session("open", round=6).open(session("seal").seal(b"x", 6), 6) == b"x"
    assert session("seal", round=6).seal(b"x", 6)
    with pytest.raises(SealError, match="comes after round 6"):
        session("seal", round=6).seal(b"x", 5)


@pytest.mark.parametrize(
    "change",
    [{"secret": bytes(31)}, {"secret": bytes(33)}, {"previous": bytes(47)}, {"previous": b""}],
)
@pytest.mark.parametrize("mode", ["seal", "open"])
def test_a_session_of_other_sizes(mode: str, change: dict[str, Any]) -> None:
    with pytest.raises(SealError, match="32 and a digest of 48 bytes"):
        session(mode, **change)


def test_a_session_has_one_direction() -> None:
    with pytest.raises(SealError, match="only opens"):
        session("open").seal(b"x", 0)
    with pytest.raises(SealError, match="only seals"):
        session("seal").open(session("seal").seal(b"x", 0), 0)


def test_a_cloned_sender_uses_another_key() -> None:
    """Two processes restored from one snapshot: same secret, same number, no shared key stream."""
    one, two = (session("seal").seal(bytes(256), 1)[HEADER_SIZE:] for _ in range(2))
    assert one[:256] != two[:256]


def test_a_chain_goes_on_after_a_restart() -> None:
    sender, receiver = session("seal"), session("open")
    receiver.open(sender.seal(b"one", 1), 1)
    resumed = session(
        "open", sequence=receiver.sequence, previous=receiver.previous, round=receiver.round
    )
    assert resumed.open(sender.seal(b"two", 2), 2) == b"two"


def test_a_header_cannot_ask_for_much_memory() -> None:
    good = Header(CHUNK, 0, 1, bytes(48), bytes(48), bytes(32)).pack()
    fields = list(LAYOUT.unpack(good))
    for chunk in (0, 1, MIN_CHUNK - 1, (1 << 22) + 1, 2**32 - 1):
        fields[4] = chunk
        with pytest.raises(SealError, match="chunk size"):
            Header.unpack(LAYOUT.pack(*fields))


def test_sealed_sizes_at_the_edges() -> None:
    for plain in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1):
        sealed = session("seal").seal(bytes(plain), 0)
        assert len(sealed) == sealed_size(plain, CHUNK)
        chunks = max(1, -(-plain // CHUNK))
        assert len(sealed) == HEADER_SIZE + plain + chunks * TAG
