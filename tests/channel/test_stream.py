"""The sealed format's own rules: sizes and bounds, and the order of chunks within a message."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealtune.channel import stream
from sealtune.channel.stream import HEADER_SIZE, MIN_CHUNK, TAG, Header, sealed_size
from sealtune.errors import SealError

SECRET = bytes(range(32))
HEADER = Header(MIN_CHUNK, 3, 7, b"b" * 48, b"p" * 48, b"s" * 32)


def sealed(plain: bytes) -> bytes:
    return stream.seal(SECRET, HEADER, memoryview(plain))[0]


def unsealed(message: bytes) -> bytes:
    return stream.unseal(SECRET, HEADER, memoryview(message))[0]


def test_the_sizes_of_the_format() -> None:
    sizes = (stream.HEADER_SIZE, stream.TAG, stream.SECRET_SIZE, stream.DIGEST_SIZE)
    assert sizes == (156, 16, 32, 48)
    assert (stream.SALT_SIZE, stream.VERSION) == (32, 1)
    assert (stream.MIN_CHUNK, stream.MAX_CHUNK, stream.DEFAULT_CHUNK) == (4096, 4194304, 1048576)


def test_a_header_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        HEADER.round = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_size": 4096},
        {"chunk_size": 4194304},
        {"round": 0, "sequence": 0},
        {"round": 2**64 - 1, "sequence": 2**64 - 1},
    ],
)
def test_a_header_at_its_bounds(change: dict[str, int]) -> None:
    header = dataclasses.replace(HEADER, **change)
    assert Header.unpack(header.pack()) == header


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk_size": 4095}, "chunk size"),
        ({"chunk_size": 4194305}, "chunk size"),
        ({"round": -1}, "fit into 64 bits"),
        ({"round": 2**64}, "fit into 64 bits"),
        ({"sequence": -1}, "fit into 64 bits"),
        ({"sequence": 2**64}, "fit into 64 bits"),
    ],
)
def test_a_header_out_of_bounds(change: dict[str, int], words: str) -> None:
    with pytest.raises(SealError, match=words):
        dataclasses.replace(HEADER, **change).pack()


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, b"STSX", "wrong magic"),
        (1, 0, "version 0"),
        (1, 2, "version 2"),
        (2, 1, "flags"),
        (2, 255, "flags"),
        (3, 1, "reserved"),
        (3, 65535, "reserved"),
    ],
)
def test_a_header_of_another_kind(place: int, value: Any, words: str) -> None:
    fields = list(stream.LAYOUT.unpack(HEADER.pack()))
    fields[place] = value
    with pytest.raises(SealError, match=words):
        Header.unpack(stream.LAYOUT.pack(*fields))


def test_a_header_cut_short() -> None:
    with pytest.raises(SealError, match="155 bytes is cut short"):
        Header.unpack(HEADER.pack()[:-1])


@pytest.mark.parametrize("size", [0, 31, 33])
@pytest.mark.parametrize("work", [stream.seal, stream.unseal])
def test_a_secret_of_another_size(work: Callable[..., object], size: int) -> None:
    with pytest.raises(SealError, match="32 bytes, not"):
        work(bytes(size), HEADER, memoryview(bytes(HEADER_SIZE + TAG)))


def test_no_chunk_follows_the_last_one() -> None:
    """What a sender with the key could go on with: the next chunk of the same message."""
    short, longer = sealed(bytes(MIN_CHUNK) + b"end"), sealed(bytes(2 * MIN_CHUNK) + b"more")
    assert unsealed(short) == bytes(MIN_CHUNK) + b"end"
    with pytest.raises(SealError, match="chunk 1"):
        unsealed(short + longer[HEADER_SIZE + 2 * (MIN_CHUNK + TAG) :])
    full = sealed(bytes(MIN_CHUNK))
    with pytest.raises(SealError, match="chunk 0"):
        unsealed(full + longer[HEADER_SIZE + MIN_CHUNK + TAG :])


@pytest.mark.parametrize("size", [0, TAG - 1, MIN_CHUNK + TAG + 1, MIN_CHUNK + 2 * TAG - 1])
def test_a_chunk_without_a_whole_tag(size: int) -> None:
    message = HEADER.pack() + sealed(bytes(2 * MIN_CHUNK))[HEADER_SIZE:][:size]
    with pytest.raises(SealError, match="cut short inside a chunk"):
        unsealed(message)


def test_a_message_has_one_form() -> None:
    """A full chunk and an empty last one would say the same as the full chunk alone."""
    info = b"sealtune/stream/v1" + HEADER.pack()
    key = stream.HKDF(stream.SHA384(), 32, salt=HEADER.salt, info=info).derive(SECRET)
    boxes = [
        AESGCM(key).encrypt(bytes(10) + bytes([number, number]), plain, None)
        for number, plain in enumerate((bytes(MIN_CHUNK), b""))
    ]
    with pytest.raises(SealError, match="cut short"):
        unsealed(HEADER.pack() + b"".join(boxes))


def test_the_digest_covers_every_chunk() -> None:
    """One header, and messages that differ in a single byte of any chunk: no two digests alike."""
    zeros, digests = bytes(MIN_CHUNK), set()
    for plain in (zeros, zeros[1:] + b"x", zeros + b"x", zeros + b"y"):
        message, digest = stream.seal(SECRET, HEADER, memoryview(plain))
        starts = range(HEADER_SIZE, len(message), MIN_CHUNK + TAG)
        tags = b"".join(message[start:][: MIN_CHUNK + TAG][-TAG:] for start in starts)
        assert digest == hashlib.sha384(HEADER.pack() + tags).digest()
        assert stream.unseal(SECRET, HEADER, memoryview(message)) == (plain, digest)
        digests.add(digest)
    assert len(digests) == 4


@pytest.mark.parametrize("plain", [0, 1, MIN_CHUNK - 1, MIN_CHUNK, MIN_CHUNK + 1, 3 * MIN_CHUNK])
def test_sizes_of_messages(plain: int) -> None:
    assert len(sealed(bytes(plain))) == sealed_size(plain, MIN_CHUNK)
