"""A site's half of the glue, under a server that may send anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealtune.federation import payload
from sealtune.federation.site import handle
from sealtune.frames import Frame
from tests.federation.enclaves import client_enclave

EXCHANGE = "0123456789abcdef"
OTHER = "f" * 16


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Socket of an enclave that answers with the message backwards, and a spool folder."""
    monkeypatch.setattr(payload, "PIECE", 4)
    spool = tmp_path / "spool"
    spool.mkdir()
    with client_enclave(tmp_path / "s", lambda f: Frame("reply", {}, bytes(f.body)[::-1])):
        yield tmp_path / "s", spool


def put(body: bytes, index: int = 0, count: int = 1, exchange: str = EXCHANGE) -> Frame:
    return Frame("put", {"exchange": exchange, "index": index, "count": count}, body)


def test_small_message(paths: tuple[Path, Path]) -> None:
    answer = handle(put(b"abc"), *paths)
    assert (answer.kind, answer.body) == ("reply", b"cba")
    assert dict(answer.meta) == {"exchange": EXCHANGE, "index": 0, "count": 1}
    assert list(paths[1].iterdir()) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_pieces_in_any_order(paths: tuple[Path, Path], order: tuple[int, ...]) -> None:
    message = b"abcdefghij"
    frames = [put(payload.piece(message, i), i, 3) for i in order]
    assert [handle(f, *paths).kind for f in frames[:2]] == ["stored", "stored"]
    first = handle(frames[2], *paths)
    rest = [handle(Frame("get", {"exchange": EXCHANGE, "index": i}), *paths) for i in (1, 2)]
    assert b"".join(bytes(f.body) for f in (first, *rest)) == message[::-1]
    assert {f.meta["count"] for f in (first, *rest)} == {3}


def test_a_repeated_piece_changes_nothing(paths: tuple[Path, Path]) -> None:
    handle(put(b"abcd", 0, 2), *paths)
    assert handle(put(b"abcd", 0, 2), *paths).kind == "stored"
    assert handle(put(b"e", 1, 2), *paths).body == b"edcb"


def test_the_spool_holds_one_exchange(paths: tuple[Path, Path]) -> None:
    handle(put(b"abcd", 0, 2), *paths)
    handle(put(b"abcd", 0, 3, OTHER), *paths)
    assert [path.name for path in paths[1].iterdir()] == [f"{OTHER}.0"]
    answer = handle(Frame("get", {"exchange": EXCHANGE, "index": 1}), *paths)
    assert answer.kind == "failed"
    assert "no longer" in answer.meta["message"]


@pytest.mark.parametrize(
    "frame",
    [
        Frame("put", {}),
        put(b"", exchange="../../etc/x"),
        put(b"", exchange=EXCHANGE + "/"),
        put(b"", exchange=EXCHANGE.upper()),
        put(b"", index=1, count=1),
        put(b"", count=0),
        put(b"", count=10**9),
        Frame("put", {"exchange": EXCHANGE, "index": "0", "count": 1}),
        Frame("get", {"exchange": EXCHANGE, "index": 0}),
        Frame("steal", {"exchange": EXCHANGE}),
    ],
)
def test_nonsense_is_answered_and_leaves_no_file(paths: tuple[Path, Path], frame: Frame) -> None:
    assert handle(frame, *paths).kind == "failed"
    assert list(paths[1].iterdir()) == []


def test_a_piece_beyond_the_end(paths: tuple[Path, Path]) -> None:
    handle(put(b"abcd", 0, 2), *paths)
    handle(put(b"e", 1, 2), *paths)
    answer = handle(Frame("get", {"exchange": EXCHANGE, "index": 2}), *paths)
    assert "has 2 pieces" in answer.meta["message"]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (None, "went away"),
        (Frame("failed", {"message": "no pads left"}), "failed: no pads left"),
        (Frame("hello"), "answered 'deliver' with 'hello'"),
    ],
)
def test_an_enclave_that_cannot(tmp_path: Path, reply: Frame | None, words: str) -> None:
    with client_enclave(tmp_path / "s", lambda f: reply):
        answer = handle(put(b"abc"), tmp_path / "s", tmp_path)
    assert answer.kind == "failed"
    assert words in answer.meta["message"]


def test_no_enclave_at_all(tmp_path: Path) -> None:
    answer = handle(put(b"abc"), tmp_path / "nobody", tmp_path)
    assert "no enclave listens" in answer.meta["message"]
