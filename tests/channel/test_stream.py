"""The sealed format's own rules: sizes and bounds, and the order of chunks within a stream."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest

from sealtune.channel import stream
from sealtune.channel.stream import (
    HEADER_SIZE,
    MIN_CHUNK,
    TAG,
    ChunkOpener,
    ChunkSealer,
    Header,
    plain_size,
    sealed_size,
)
from sealtune.errors import SealError

SECRET = bytes(range(32))
HEADER = Header(b"b" * 48, 3, 7, b"p" * 48, b"s" * 32, MIN_CHUNK)


def sealed(sealer: ChunkSealer, plain: bytes, *, last: bool) -> bytes:
    out = bytearray(len(plain) + TAG)
    assert sealer.seal_into(plain, out, last=last) == len(out)
    return bytes(out)


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
@pytest.mark.parametrize("kind", [ChunkSealer, ChunkOpener])
def test_a_secret_of_another_size(kind: type[ChunkSealer | ChunkOpener], size: int) -> None:
    with pytest.raises(SealError, match="32 bytes, not"):
        kind(bytes(size), HEADER)


def test_no_chunk_follows_the_last_one() -> None:
    sealer, opener = ChunkSealer(SECRET, HEADER), ChunkOpener(SECRET, HEADER)
    first, last = sealed(sealer, bytes(MIN_CHUNK), last=False), sealed(sealer, b"end", last=True)
    with pytest.raises(SealError, match="follows the last one"):
        sealer.seal_into(b"more", bytearray(4 + TAG), last=True)
    opener.open_into(first, bytearray(MIN_CHUNK), last=False)
    opener.open_into(last, bytearray(3), last=True)
    assert opener.digest == sealer.digest
    # What a sender with the key would go on with: chunk 2 of this stream.
    longer = ChunkSealer(SECRET, HEADER)
    for _ in range(2):
        sealed(longer, bytes(MIN_CHUNK), last=False)
    more = sealed(longer, b"more", last=True)
    with pytest.raises(SealError, match="follows the last one"):
        opener.open_into(more, bytearray(4), last=True)
    assert opener.digest == sealer.digest


@pytest.mark.parametrize(
    ("size", "last"), [(MIN_CHUNK + 1, False), (MIN_CHUNK + 1, True), (MIN_CHUNK - 1, False)]
)
def test_a_chunk_of_another_size(size: int, last: bool) -> None:
    with pytest.raises(SealError, match=f"chunk of {size} bytes"):
        ChunkSealer(SECRET, HEADER).seal_into(bytes(size), bytearray(size + TAG), last=last)
    with pytest.raises(SealError, match=f"chunk of {size} bytes"):
        ChunkOpener(SECRET, HEADER).open_into(bytes(size + TAG), bytearray(size), last=last)


@pytest.mark.parametrize("size", [0, TAG - 1])
def test_a_chunk_without_a_whole_tag(size: int) -> None:
    with pytest.raises(SealError, match="cut short inside a chunk"):
        ChunkOpener(SECRET, HEADER).open_into(bytes(size), bytearray(), last=True)


def test_the_digest_is_of_a_whole_message() -> None:
    sealer = ChunkSealer(SECRET, HEADER)
    with pytest.raises(SealError, match="after its last chunk"):
        _ = sealer.digest
    sealed(sealer, bytes(MIN_CHUNK), last=False)
    with pytest.raises(SealError, match="after its last chunk"):
        _ = sealer.digest
    sealed(sealer, b"", last=True)
    assert len(sealer.digest) == 48


def test_the_digest_covers_every_chunk() -> None:
    """One header, and messages that differ in a single byte of any chunk: no two digests alike."""
    plain = bytes(MIN_CHUNK)
    found = set()
    for first, second in ((plain, b""), (plain[1:] + b"x", b""), (plain, b"x"), (plain, b"y")):
        sealer = ChunkSealer(SECRET, HEADER)
        boxes = [sealed(sealer, first, last=False), sealed(sealer, second, last=True)]
        tags = b"".join(box[-TAG:] for box in boxes)
        assert sealer.digest == hashlib.sha384(HEADER.pack() + tags).digest()
        found.add(sealer.digest)
    assert len(found) == 4


@pytest.mark.parametrize("plain", [0, 1, MIN_CHUNK - 1, MIN_CHUNK, MIN_CHUNK + 1, 3 * MIN_CHUNK])
def test_sizes_go_there_and_back(plain: int) -> None:
    assert plain_size(sealed_size(plain, MIN_CHUNK), MIN_CHUNK) == plain


@pytest.mark.parametrize(
    "size",
    [0, HEADER_SIZE, HEADER_SIZE + TAG - 1]
    + [HEADER_SIZE + MIN_CHUNK + TAG + more for more in (1, TAG - 1, TAG)],
)
def test_sizes_that_no_message_has(size: int) -> None:
    with pytest.raises(SealError, match=f"{size} bytes is cut short"):
        plain_size(size, MIN_CHUNK)
