"""Bytes in Flower messages: what goes in comes out, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from sealtune.errors import FrameError
from sealtune.federation import payload
from sealtune.frames import Frame, encode


@given(st.binary(max_size=2000), st.integers(0, 2**40))
def test_round_trip(body: bytes, index: int) -> None:
    frame = payload.unpack(payload.pack(Frame("put", {"index": index}, body)))
    assert (frame.kind, dict(frame.meta), bytes(frame.body)) == ("put", {"index": index}, body)


def test_one_uint8_array_and_nothing_else() -> None:
    content = payload.pack(Frame("put", {}, b"x" * 100))
    assert list(content) == list(content.array_records) == ["sealed"]
    array = content.array_records["sealed"]["0"]
    assert (array.dtype, array.stype, array.shape) == ("uint8", "sealed.bytes", (len(array.data),))


def sealed(**changes: object) -> RecordDict:
    """Content as ``pack`` makes it, with some fields changed."""
    data = encode(Frame("put", {}, b"abc"))
    fields = {"dtype": "uint8", "shape": (len(data),), "stype": "sealed.bytes", "data": data}
    return RecordDict({"sealed": ArrayRecord({"0": Array(**(fields | changes))})})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"sealed": ConfigRecord({"0": b"abc"})}),
        RecordDict({"sealed": ArrayRecord({})}),
        RecordDict({"sealed": ArrayRecord({"0": Array(np.zeros(3))})}),
        sealed(shape=(3,)),
        sealed(dtype="float32"),
        sealed(stype="numpy.ndarray"),
        sealed(data=b"STF1", shape=(4,)),
        RecordDict({**sealed(), "more": ConfigRecord({"a": 1})}),
    ],
)
def test_other_contents_are_refused(content: RecordDict) -> None:
    with pytest.raises(FrameError):
        payload.unpack(content)


def test_more_than_one_piece_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = payload.pack(Frame("put", {}, b"x" * 101))
    monkeypatch.setattr(payload, "PIECE", 100)
    with pytest.raises(FrameError, match="limit 100"):
        payload.unpack(content)


@given(st.binary(max_size=100), st.integers(1, 12))
def test_pieces_put_together_are_the_whole(body: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "PIECE", size)
        parts = [payload.piece(body, i) for i in range(payload.pieces(len(body)))]
    assert b"".join(parts) == body
    assert all(len(part) <= size for part in parts)


@pytest.mark.parametrize("value", [-1, 1.5, True, "1", None])
def test_counts_are_checked(value: object) -> None:
    with pytest.raises(FrameError, match="count"):
        payload.integer(Frame("put", {"index": value}), "index")


def test_text_from_the_network_cannot_control_a_terminal() -> None:
    frame = Frame("failed", {"message": "\x1b[2Jgone\n" + "x" * 5000})
    text = payload.text(frame, "message")
    assert text.startswith(" [2Jgone x")
    assert len(text) == 2000
