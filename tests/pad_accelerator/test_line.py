"""Three threads' meeting place: order, window, and what a skip leaves."""

from __future__ import annotations

import threading

import pytest

from sealtune.errors import FrameError
from sealtune.frames import Frame
from sealtune.pad_accelerator import line
from sealtune.pad_accelerator.line import Asked, Line


def asked(index: int) -> Asked:
    return Asked(index, "q", False, 1, 1, 1)


def pad(index: int, size: int = 10) -> Frame:
    return Frame("pad", {"index": index}, bytes(size))


def test_no_more_is_made_than_the_window_holds() -> None:
    made = Line(window=25)
    for index in range(5):
        made.ask(asked(index))
    for index in range(3):
        epoch, one = made.next_to_make() or (0, None)
        assert one == asked(index)
        made.put(epoch, pad(index))
    waiting = threading.Thread(target=made.next_to_make, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()  # 30 bytes are there
    made.fetch(1)
    assert made.next_to_send() == pad(0)
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_skip_throws_away_what_waits_and_what_is_under_way() -> None:
    made = Line(window=100)
    for index in range(3):
        made.ask(asked(index))
    epoch, _ = made.next_to_make() or (0, None)
    made.put(epoch, pad(0))
    under_way, _ = made.next_to_make() or (0, None)
    made.skip()
    made.skip()
    made.put(under_way, pad(1))
    made.ask(asked(7))
    later, one = made.next_to_make() or (0, None)
    assert one == asked(7)
    made.put(later, pad(7))
    made.fetch(1)
    sent = [made.next_to_send() for _ in range(3)]
    assert sent == [Frame("skipped"), Frame("skipped"), pad(7)]


def test_nothing_is_sent_that_was_not_fetched() -> None:
    made = Line(window=100)
    for index in range(2):
        made.ask(asked(index))
        epoch, _ = made.next_to_make() or (0, None)
        made.put(epoch, pad(index))
    made.fetch(1)
    assert made.next_to_send() == pad(0)
    found: list[Frame | None] = []
    waiting = threading.Thread(target=lambda: found.append(made.next_to_send()), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    made.skip()  # is answered all the same
    waiting.join(60)
    assert found == [Frame("skipped")]


def test_the_end_wakes_everybody() -> None:
    made = Line(window=1)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda take=take: found.append(take()), daemon=True)
        for take in (made.next_to_make, made.next_to_send)
    ]
    for thread in threads:
        thread.start()
    made.close()
    for thread in threads:
        thread.join(60)
    assert found == [None, None]


def test_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MOST_ASKED", 2)
    made = Line(window=1)
    made.ask(asked(0))
    made.ask(asked(1))
    with pytest.raises(FrameError, match="more than 2 pads"):
        made.ask(asked(2))
    made.fetch(2)
    with pytest.raises(FrameError, match="more than 2 pads"):
        made.fetch(1)
