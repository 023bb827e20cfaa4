"""Frames: every bound at its edge, every malformed frame refused, streams read to the byte."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from sealtune import frames
from sealtune.errors import FrameError
from sealtune.frames import HEADER, Frame


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a stream; a wait that nobody ends is an error."""
    near, far = socket.socketpair()
    near.settimeout(5)
    far.settimeout(5)
    with near, far:
        yield near, far


def header(magic: bytes = b"STF1", meta: int = 0, body: int = 0, reserved: int = 0) -> bytes:
    return HEADER.pack(magic, meta, body, reserved)


def test_the_layout_on_the_wire() -> None:
    meta = b'{"kind":"hello","n":3}'
    expected = b"STF1" + len(meta).to_bytes(4, "little") + (2).to_bytes(8, "little") + bytes(4)
    assert frames.encode(Frame("hello", {"n": 3}, b"ab")) == expected + meta + b"ab"
    assert frames.encode_head(Frame("hello", {"n": 3}, b"ab")) == expected + meta
    assert (HEADER.size, frames.MAX_META, frames.MAX_BODY) == (20, 1048576, 4294967296)


def test_a_frame_comes_back_as_it_was() -> None:
    frame = Frame("hello", {"n": 3}, b"body")
    assert frames.decode(frames.encode(frame)) == frame
    assert frames.decode(memoryview(frames.encode(Frame("nothing")))) == Frame("nothing")
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.kind = "other"  # type: ignore[misc]


@pytest.mark.parametrize("value", [0, 1, 1 << 70])
def test_counts(value: int) -> None:
    assert frames.is_count(value)


@pytest.mark.parametrize("value", [-1, True, False, 1.0, "1", None, [1]])
def test_what_is_no_count(value: object) -> None:
    assert not frames.is_count(value)


def test_a_header_at_its_limits() -> None:
    assert frames.parse_header(header(meta=frames.MAX_META)) == (frames.MAX_META, 0)
    assert frames.parse_header(header(body=frames.MAX_BODY)) == (0, frames.MAX_BODY)
    assert frames.parse_header(header(meta=7, body=5), max_body=5) == (7, 5)


@pytest.mark.parametrize(
    ("raw", "limit", "words"),
    [
        (header()[:-1], 9, "19 bytes, not 20"),
        (header() + b"\0", 9, "21 bytes, not 20"),
        (header(magic=b"STF2"), 9, "wrong magic"),
        (header(reserved=1), 9, "reserved field"),
        (header(reserved=0xFFFFFFFF), 9, "reserved field"),
        (header(magic=b"STF2", reserved=1), 9, "wrong magic"),
        (header(meta=(1 << 20) + 1), 9, "1048577 bytes of meta, limit 1048576"),
        (header(body=10), 9, "10 bytes of body, limit 9"),
        (header(body=(1 << 32) + 1), None, "4294967297 bytes of body, limit 4294967296"),
    ],
)
def test_a_header_that_is_refused(raw: bytes, limit: int | None, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        frames.parse_header(raw) if limit is None else frames.parse_header(raw, max_body=limit)


def test_meta_at_its_limit_can_be_sent() -> None:
    room = frames.MAX_META - len(json.dumps({"kind": "k", "x": ""}, separators=(",", ":")))
    full = frames.encode(Frame("k", {"x": "a" * room}))
    assert frames.decode(full).meta["x"] == "a" * room
    with pytest.raises(FrameError, match="frame meta is 1048577 bytes"):
        frames.encode_head(Frame("k", {"x": "a" * (room + 1)}))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[" * 100_000])
def test_meta_that_is_no_json(raw: bytes) -> None:
    with pytest.raises(FrameError, match="not JSON"):
        frames.parse_meta(raw)


@pytest.mark.parametrize("raw", [b"[]", b'"kind"', b"null", b"{}", b'{"kind":1}', b'{"n":"kind"}'])
def test_meta_without_a_kind(raw: bytes) -> None:
    with pytest.raises(FrameError, match="lacks its kind"):
        frames.parse_meta(raw)


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0"])
@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_frame_that_is_longer_or_shorter_than_it_says(change, body: bytes) -> None:  # type: ignore[no-untyped-def]
    raw = change(frames.encode(Frame("hello", {"n": 3}, body)))
    with pytest.raises(FrameError, match=rf"frame of {len(raw)} bytes should have"):
        frames.decode(raw)


def test_frames_follow_each_other_on_a_stream(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    sent = [Frame("first", {"n": 1}, b"some bytes"), Frame("second"), Frame("third", {}, b"x")]
    for frame in sent:
        frames.send(near, frame)
    near.close()
    assert [frames.receive(far) for _ in sent] == sent
    with pytest.raises(EOFError):
        frames.receive(far)


def test_a_stream_that_comes_in_drops(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    frame = Frame("slow", {"n": 1}, b"abc")
    dropped = threading.Event()

    def drop() -> None:
        for byte in frames.encode(frame):
            near.sendall(bytes([byte]))
            dropped.wait(0.002)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        assert frames.receive(far) == frame
    finally:
        thread.join()


@pytest.mark.parametrize("cut", [1, 19, 20, 30, -1])
def test_a_stream_that_ends_inside_a_frame(
    ends: tuple[socket.socket, socket.socket], cut: int
) -> None:
    near, far = ends
    near.sendall(frames.encode(Frame("hello", {"n": 3}, b"body"))[:cut])
    near.close()
    with pytest.raises(FrameError, match="closed inside a frame"):
        frames.receive(far)


def test_the_bound_of_the_reader_holds_on_a_stream(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    near.sendall(header(body=10))
    with pytest.raises(FrameError, match="10 bytes of body, limit 9"):
        frames.receive(far, max_body=9)


@pytest.mark.parametrize("size", [4, 5, 8, 9, 4000])
def test_bodies_longer_than_a_piece(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    near, far = ends
    monkeypatch.setattr(frames, "_PIECE", 4)
    frame = Frame("long", {}, bytes(number % 251 for number in range(size)))
    frames.send(near, frame)
    frames.send(near, Frame("next"))
    assert frames.receive(far) == frame
    assert frames.receive(far) == Frame("next")
