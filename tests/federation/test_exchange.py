"""A node's part of an exchange, under a server that may send anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealtune.federation import enclave_link, payload, spool
from sealtune.federation.exchange import handle
from sealtune.federation.spool import Spool
from sealtune.frames import Frame
from tests.federation.enclaves import client_enclave

EXCHANGE = "0123456789abcdef"
OTHER = "f" * 16


class Site:
    """An enclave that answers with the message backwards, and a spool."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "s"
        self.folder = folder / "spool"
        self.folder.mkdir(exist_ok=True)
        self.spool = Spool(self.folder)

    def handle(self, frame: Frame) -> Frame:
        return handle(frame, str(self.socket), self.spool)

    def patient(self, frame: Frame) -> Frame:
        """As a node on a host of its own."""
        return handle(frame, str(self.socket), self.spool, patience=120.0)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(payload, "PIECE", 4)
    with client_enclave(tmp_path / "s", lambda f: Frame("reply", {}, bytes(f.body)[::-1])):
        yield Site(tmp_path)


def put(body: bytes, index: int = 0, count: int = 1, exchange: str = EXCHANGE) -> Frame:
    return Frame("put", {"exchange": exchange, "index": index, "count": count}, body)


def get(index: int, exchange: str = EXCHANGE) -> Frame:
    return Frame("get", {"exchange": exchange, "index": index})


def test_small_message(site: Site) -> None:
    answer = site.handle(put(b"abc"))
    assert (answer.kind, answer.body) == ("reply", b"cba")
    assert dict(answer.meta) == {"exchange": EXCHANGE, "index": 0, "count": 1}
    assert site.files() == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_pieces_in_any_order(site: Site, order: tuple[int, ...]) -> None:
    message = b"abcdefghij"
    frames = [put(payload.piece(message, i), i, 3) for i in order]
    assert [site.handle(f).kind for f in frames[:2]] == ["stored", "stored"]
    first = site.handle(frames[2])
    rest = [site.handle(get(i)) for i in (1, 2)]
    assert b"".join(bytes(f.body) for f in (first, *rest)) == message[::-1]
    assert {f.meta["count"] for f in (first, *rest)} == {3}


def test_a_repeated_piece_changes_nothing(site: Site) -> None:
    site.handle(put(b"abcd", 0, 2))
    assert site.handle(put(b"abcd", 0, 2)).kind == "stored"
    assert site.handle(put(b"e", 1, 2)).body == b"edcb"


def test_the_spool_holds_one_exchange(site: Site) -> None:
    site.handle(put(b"abcd", 0, 2))
    site.handle(put(b"abcd", 2, 4, OTHER))
    assert site.files() == ["2.piece"]
    answer = site.handle(get(1))
    assert answer.kind == "failed"
    assert "no longer" in answer.meta["message"]


def test_the_spool_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a hostile server sends, and in however many exchanges."""
    monkeypatch.setattr(spool, "MAX_MESSAGE", 12)
    for exchange in (EXCHANGE, OTHER, "0" * 16):
        for index in (0, 1, 1, 0):
            assert site.handle(put(b"abcd", index, 3, exchange)).kind == "stored"
        assert site.files() == ["0.piece", "1.piece"]
    answer = site.handle(put(b"abcd", 0, 4, OTHER))
    assert answer.kind == "failed"
    assert answer.meta["message"] == (
        "a message of 4 pieces, but this site keeps at most 3 of 4 bytes"
    )
    assert "has become one of 2" in site.handle(put(b"abcd", 0, 2, "0" * 16)).meta["message"]
    assert sum(path.stat().st_size for path in site.folder.iterdir()) <= 12


def test_an_answer_that_is_too_long(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spool, "MAX_MESSAGE", 12)
    (tmp_path / "s").rename(tmp_path / "gone")
    with client_enclave(tmp_path / "s", lambda f: Frame("reply", {}, bytes(13))):
        answer = site.handle(put(b"abc"))
    assert answer.meta["message"] == ("an answer of 13 bytes, but this site keeps at most 12")
    assert site.files() == []


def test_what_a_killed_program_left_goes(site: Site, tmp_path: Path) -> None:
    site.handle(put(b"abcd", 0, 2))
    (site.folder / "1.part").write_bytes(b"half")
    assert Site(tmp_path).files() == []


def test_what_nobody_asks_for_goes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.handle(put(b"abcd", 0, 2))
    site.spool.tidy()
    assert site.files() == ["0.piece"]
    monkeypatch.setattr(spool, "STALE", -1.0)
    site.spool.tidy()
    assert site.files() == []
    assert site.handle(put(b"e", 1, 2)).kind == "stored"  # its first piece is missed


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
        put(b"abcde"),
        put(b"abc", 0, 2),
        Frame("put", {"exchange": EXCHANGE, "index": "0", "count": 1}),
        get(0),
        Frame("steal", {"exchange": EXCHANGE}),
    ],
)
def test_nonsense_is_answered_and_leaves_no_file(site: Site, frame: Frame) -> None:
    assert site.handle(frame).kind == "failed"
    assert site.files() == []


def test_a_piece_beyond_the_end(site: Site) -> None:
    site.handle(put(b"abcd", 0, 2))
    site.handle(put(b"e", 1, 2))
    assert "has 2 pieces" in site.handle(get(2)).meta["message"]


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
        answer = Site(tmp_path).handle(put(b"abc"))
    assert answer.kind == "failed"
    assert words in answer.meta["message"]


def test_no_enclave_at_all(tmp_path: Path) -> None:
    assert "no enclave listens" in Site(tmp_path).handle(put(b"abc")).meta["message"]


def test_an_enclave_that_is_started_again_gets_the_message_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies over the message, is away for a while, and answers when it is back."""
    monkeypatch.setattr(enclave_link, "_LOOK", 0.02)
    site, got = Site(tmp_path), list[bytes]()

    def dies(frame: Frame) -> None:
        got.append(bytes(frame.body))

    with client_enclave(site.socket, dies):
        waiting = threading.Thread(target=lambda: answers.append(site.patient(put(b"abc"))))
        answers: list[Frame] = []
        waiting.start()
        while not got:
            time.sleep(0.01)
    site.socket.unlink()
    time.sleep(0.1)
    with client_enclave(site.socket, lambda frame: Frame("reply", {}, bytes(frame.body)[::-1])):
        waiting.join(20)
    assert [bytes(answer.body) for answer in answers] == [b"cba"]
    assert got[0] == b"abc"


def test_an_enclave_that_says_that_it_failed_is_not_asked_again(tmp_path: Path) -> None:
    site, asked = Site(tmp_path), list[Frame]()

    def fails(frame: Frame) -> Frame:
        asked.append(frame)
        return Frame("failed", {"message": "no pads left"})

    with client_enclave(site.socket, fails):
        assert "no pads left" in site.patient(put(b"abc")).meta["message"]
    assert len(asked) == 1


def test_an_enclave_that_stays_away_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enclave_link, "_LOOK", 60.0)
    slept: list[float] = []
    monkeypatch.setattr(enclave_link.time, "sleep", slept.append)
    assert "no enclave listens" in Site(tmp_path).patient(put(b"abc")).meta["message"]
    assert slept == [60.0] * 2  # of the 120 s that it had
