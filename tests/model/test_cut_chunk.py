"""Chunks of samples: round trips, and everything that is not one is refused."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import DataError
from sealtune.model.activations import Form
from sealtune.model.cut_chunk import CHUNK, MAX_SAMPLES, Chunk, Layout, chunk_spans, read_chunk

FORMS: tuple[Form, ...] = ("fp32", "bf16", "int8")
LAYOUT = Layout("bf16", width=4, max_tokens=12, classes=3, vocabulary=50)
TEXTS = replace(LAYOUT, classes=0)


def fill(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def chunk(layout: Layout, lengths: tuple[int, ...], seed: int = 0) -> Chunk:
    """Samples of these lengths with random contents."""
    rng = np.random.default_rng(seed)
    count = len(lengths)
    labels = rng.integers(0, layout.classes, count).tolist() if layout.classes else [-1] * count
    ids = tuple(tuple(rng.integers(0, layout.vocabulary, n).tolist()) for n in lengths)
    packed = tuple(rng.bytes(n * layout.token_bytes) for n in lengths)
    return Chunk("train", lengths, tuple(labels), None if layout.classes else ids, packed)


def head(chunk: Chunk) -> dict[str, Any]:
    return {"part": chunk.part, "samples": len(chunk.lengths)}


def read(chunk: Chunk, layout: Layout) -> Chunk:
    return read_chunk(head(chunk), memoryview(chunk.body()), layout)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    return Layout(
        form=draw(st.sampled_from(FORMS)),
        width=draw(st.integers(1, 9)),
        max_tokens=draw(st.integers(2, 12)),
        classes=draw(st.sampled_from([0, 1, 2, 7])),
        vocabulary=draw(st.sampled_from([1, 50, 2**31])),
    )


@st.composite
def chunks(draw: st.DrawFn) -> tuple[Layout, Chunk]:
    layout = draw(layouts())
    tokens = st.integers(layout.least_tokens, layout.max_tokens)
    lengths = draw(st.lists(tokens, min_size=1, max_size=6))
    made = chunk(layout, tuple(lengths), draw(st.integers(0, 2**32 - 1)))
    return layout, replace(made, part=draw(st.sampled_from(["train", "test"])))


@settings(max_examples=200, deadline=None)
@given(chunks())
def test_a_chunk_comes_back_as_it_was(made: tuple[Layout, Chunk]) -> None:
    layout, sent = made
    body = sent.body()
    assert len(body) == 8 * len(sent.lengths) + sum(sent.lengths) * (
        layout.token_bytes + (0 if layout.classes else 4)
    )
    got = read_chunk(head(sent), memoryview(body), layout)
    assert (got.part, got.lengths, got.labels, got.ids) == (
        sent.part, sent.lengths, sent.labels, sent.ids
    )  # fmt: skip
    assert [bytes(a) for a in got.activations] == list(sent.activations)
    assert got.body() == body


def test_the_body_is_as_documented() -> None:
    layout = Layout("int8", width=2, max_tokens=4, classes=0, vocabulary=70_000)
    sent = Chunk("test", (3, 2), (-1, -1), ((3, 4, 5), (65_536, 1)), (b"abcdefghijkl", b"mnopqrst"))
    assert sent.body() == (
        b"\x03\0\0\0\x02\0\0\0"
        b"\xff\xff\xff\xff\xff\xff\xff\xff"
        b"\x03\0\0\0\x04\0\0\0\x05\0\0\0\0\0\x01\0\x01\0\0\0"
        b"abcdefghijklmnopqrst"
    )
    assert read(sent, layout).ids == ((3, 4, 5), (65_536, 1))


def test_activations_are_views_of_the_body() -> None:
    sent = chunk(LAYOUT, (12, 3, 7))
    body = memoryview(sent.body())
    for piece in read_chunk(head(sent), body, LAYOUT).activations:
        assert isinstance(piece, memoryview)
        assert piece.obj is body.obj


def test_a_head_may_say_more() -> None:
    sent = chunk(LAYOUT, (1, 2))
    more = {**head(sent), "tokens": 3, "cut": 2, "form": "bf16"}
    assert read_chunk(more, memoryview(sent.body()), LAYOUT).lengths == (1, 2)


# --- spans ---------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), max_size=40),
    width=st.integers(1, 1 << 23),
    form=st.sampled_from(FORMS),
)
def test_spans_cover_every_sample_once_in_order(lengths: list[int], width: int, form: Form) -> None:
    layout = replace(LAYOUT, width=width, form=form)
    spans = chunk_spans(lengths, layout)
    assert list(itertools.chain(*spans)) == list(range(len(lengths)))
    assert all(len(span) > 0 for span in spans)
    for span in spans[:-1]:
        size = sum(lengths[i] for i in span) * layout.token_bytes
        assert size >= CHUNK
        assert size - lengths[span[-1]] * layout.token_bytes < CHUNK  # and no sooner


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=40), st.lists(st.integers(1, 40), max_size=9))
def test_spans_follow_from_the_data_alone(lengths: list[int], later: list[int]) -> None:
    layout = replace(LAYOUT, width=1 << 20)
    spans = chunk_spans(lengths, layout)
    assert chunk_spans(tuple(lengths), replace(layout, classes=0, vocabulary=9)) == spans
    # what comes later changes nothing but the last chunk, which may not have been full
    assert chunk_spans([*lengths, *later], layout)[: max(len(spans) - 1, 0)] == spans[:-1]


def test_a_chunk_is_full_at_its_size_and_not_before() -> None:
    layout = Layout("bf16", width=CHUNK // 4096, max_tokens=4096, classes=2, vocabulary=9)
    assert 2048 * layout.token_bytes == CHUNK
    assert chunk_spans([512] * 9, layout) == [range(4), range(4, 8), range(8, 9)]
    assert chunk_spans([4096, 1], layout) == [range(1), range(1, 2)]
    assert chunk_spans([2047, 1], layout) == [range(2)]
    assert chunk_spans([2047, 2, 1], layout) == [range(2), range(2, 3)]
    assert chunk_spans([], layout) == []


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [LAYOUT, TEXTS], ids=["classes", "texts"])
def test_every_other_length_is_refused(layout: Layout) -> None:
    sent = chunk(layout, (3, 2, 5))
    body = sent.body()
    for size in range(len(body)):
        with pytest.raises(DataError):
            read_chunk(head(sent), memoryview(body[:size]), layout)
    for more in range(1, 80):
        with pytest.raises(DataError, match="cut short, or was made with another"):
            read_chunk(head(sent), memoryview(body + bytes(more)), layout)


@pytest.mark.parametrize(
    "count",
    [None, True, False, 0, -1, -(2**70), 2.0, 2.5, "2", [2], {}, MAX_SAMPLES + 1, 2**31, 2**70],
)
def test_impossible_counts_are_refused(count: Any) -> None:
    sent = chunk(LAYOUT, (2,) if count is True else (1, 1))
    with pytest.raises(DataError, match="does not say how many samples"):
        read_chunk({"part": "train", "samples": count}, memoryview(sent.body()), LAYOUT)


def test_a_count_that_is_missing_is_refused() -> None:
    with pytest.raises(DataError, match="does not say how many samples"):
        read_chunk({"part": "train"}, memoryview(chunk(LAYOUT, (1,)).body()), LAYOUT)


@pytest.mark.parametrize("count", [1, 3, 4, MAX_SAMPLES])
def test_wrong_counts_are_refused(count: int) -> None:
    sent = chunk(LAYOUT, (2, 2))
    with pytest.raises(DataError):
        read_chunk({"part": "train", "samples": count}, memoryview(sent.body()), LAYOUT)


@pytest.mark.parametrize(
    "part", [None, "", "Train", "validation", 1, ["train"], {"train": 1}, b"test"]
)
def test_other_parts_are_refused(part: Any) -> None:
    sent = chunk(LAYOUT, (1, 2))
    with pytest.raises(DataError, match="neither 'train' nor 'test'"):
        read_chunk({"part": part, "samples": 2}, memoryview(sent.body()), LAYOUT)


@pytest.mark.parametrize("layout", [LAYOUT, TEXTS], ids=["classes", "texts"])
@pytest.mark.parametrize("length", [0, 13, 2**31, 2**32 - 1])
def test_impossible_lengths_are_refused(layout: Layout, length: int) -> None:
    sent = chunk(layout, (3, 2, 5))
    read(sent, layout)
    with pytest.raises(DataError, match=f"not {layout.least_tokens} to 12 tokens"):
        read(replace(sent, lengths=(3, length, 5)), layout)


def test_a_single_token_leaves_nothing_to_predict() -> None:
    assert read(chunk(LAYOUT, (1, 2)), LAYOUT).lengths == (1, 2)
    with pytest.raises(DataError, match="not 2 to 12 tokens"):
        read(chunk(TEXTS, (1, 2)), TEXTS)


def test_the_longest_sample_is_taken() -> None:
    assert read(chunk(LAYOUT, (12, 1)), LAYOUT).lengths == (12, 1)


@pytest.mark.parametrize(
    ("layout", "label"),
    [(LAYOUT, -1), (LAYOUT, 3), (LAYOUT, 2**31 - 1), (LAYOUT, -(2**31)), (TEXTS, 0), (TEXTS, -2)],
)
def test_labels_that_are_no_class_are_refused(layout: Layout, label: int) -> None:
    sent = chunk(layout, (2, 2, 2))
    bad = replace(sent, labels=(sent.labels[0], label, sent.labels[2]))
    with pytest.raises(DataError, match="a label is not one of the job's"):
        read(bad, layout)


def test_every_class_is_taken() -> None:
    sent = replace(chunk(LAYOUT, (1, 1, 1)), labels=(0, 2, 1))
    assert read(sent, LAYOUT).labels == (0, 2, 1)


@pytest.mark.parametrize("token", [50, 2**31, 2**32 - 1])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    sent = chunk(TEXTS, (3, 2))
    assert read(replace(sent, ids=((0, 1, 2), (49, 49))), TEXTS).ids == ((0, 1, 2), (49, 49))
    with pytest.raises(DataError, match="a token id is not below 50"):
        read(replace(sent, ids=((1, 1, 1), (2, token))), TEXTS)


OTHERS: list[Callable[[Layout], Layout]] = [
    lambda layout: replace(layout, form="fp32"),
    lambda layout: replace(layout, form="int8"),
    lambda layout: replace(layout, width=layout.width + 1),
    lambda layout: replace(layout, width=layout.width * 2),
    lambda layout: replace(layout, classes=0 if layout.classes else 3),
]


@pytest.mark.parametrize("layout", [LAYOUT, TEXTS], ids=["classes", "texts"])
@pytest.mark.parametrize("other", OTHERS, ids=["fp32", "int8", "width+1", "width*2", "task"])
def test_the_chunk_of_another_job_is_refused(
    layout: Layout, other: Callable[[Layout], Layout]
) -> None:
    sent = chunk(layout, (3, 1, 5))
    with pytest.raises(DataError):
        read(sent, other(layout))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
HEADS = st.fixed_dictionaries(
    {},
    optional={
        "part": st.sampled_from(["train", "test"]) | JSON,
        "samples": st.integers(1, 9) | st.sampled_from([MAX_SAMPLES, 2**24 + 1, 2**40]) | JSON,
        "tokens": JSON,
    },
)
BODIES = st.binary(max_size=120) | st.lists(st.integers(0, 4), max_size=30).map(
    lambda numbers: np.asarray(numbers, "<u4").tobytes()
)


@settings(max_examples=500, deadline=None)
@given(HEADS, BODIES, layouts())
def test_arbitrary_chunks_are_read_or_refused(
    head: dict[str, Any], body: bytes, layout: Layout
) -> None:
    try:
        got = read_chunk(head, memoryview(body), layout)
    except DataError:
        return
    assert got.body() == body
    assert all(1 <= n <= layout.max_tokens for n in got.lengths)


@settings(max_examples=200, deadline=None)
@given(chunks(), st.data())
def test_changed_bytes_are_read_or_refused(made: tuple[Layout, Chunk], data: st.DataObject) -> None:
    layout, sent = made
    body = bytearray(sent.body())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = read_chunk(head(sent), memoryview(body), layout)
    except DataError:
        return
    assert got.body() == bytes(body)


@pytest.mark.parametrize("layout", [LAYOUT, TEXTS], ids=["classes", "texts"])
@pytest.mark.parametrize("samples", [1, 1000, MAX_SAMPLES, 2**62])
@pytest.mark.parametrize("size", [16, 8_000, 200_000])
def test_a_lie_costs_no_memory(layout: Layout, samples: int, size: int) -> None:
    """Whatever head and lengths say, what is taken is a small multiple of what was sent."""
    for body in (b"\xff" * size, bytes(size), b"\x0c\0\0\0" * (size // 4), fill(1, size)):
        view = memoryview(body)
        tracemalloc.start()
        with pytest.raises(DataError):
            read_chunk({"part": "train", "samples": samples}, view, layout)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * size + 64_000


@pytest.mark.parametrize("layout", [LAYOUT, TEXTS], ids=["classes", "texts"])
def test_promised_tokens_cost_no_memory(layout: Layout) -> None:
    """Lengths and labels are right, but the activations that they announce never come."""
    count = 20_000
    made = chunk(layout, (1,))
    empty = replace(made, lengths=(12,) * count, labels=made.labels * count, activations=())
    body = memoryview(replace(empty, ids=None).body())
    tracemalloc.start()
    with pytest.raises(DataError, match=f"{12 * count} tokens has {8 * count} bytes"):
        read_chunk(head(empty), body, layout)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * body.nbytes + 64_000
