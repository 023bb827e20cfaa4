"""An enclave's pads from a pad accelerator: what is taken from it, and what is not."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sealtune import frames
from sealtune.channel.hpke import KeyPair
from sealtune.errors import AcceleratorLostError, OffloadError, PadReuseError
from sealtune.frames import Frame
from sealtune.offload import second
from sealtune.offload.pad_wire import streams_of
from sealtune.offload.second import SecondSource
from tests.offload.layers import GROUPS, HIDDEN, INNER, Setup, make_setup
from tests.pad_accelerator.pair import bare, connect, serving

STREAMS_SEED = b"s" * 64
STEP = [("q", False), ("o", False), ("o", True), ("q", True)]


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


class Scripted:
    """Answers each request for a pad with what a test says."""

    def __init__(self, answer: Callable[[int, Frame], Frame | None]) -> None:
        self.here, self._there = socket.socketpair()
        self.here.settimeout(30)
        self.requests: list[Frame] = []
        self._answer = answer
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                self.requests.append(request := frames.receive(self._there))
                if request.kind == "bye":
                    return
                if request.kind == "fetch":
                    self.requests.pop()
                    continue
                answer = self._answer(len(self.requests) - 1, request)
                if answer is None:
                    self._there.close()
                    return
                frames.send(self._there, answer)
        except (EOFError, OSError):
            self._there.close()

    def close(self) -> None:
        self.here.close()
        self._there.close()


def width(group: object, backward: object) -> int:
    return (
        INNER
        if (group, backward) in (("q", True), ("o", False))
        else (HIDDEN + 16 if group == "q" else HIDDEN)
    )


def honest(_number: int, request: Frame) -> Frame:
    meta: Mapping[str, Any] = request.meta
    if request.kind == "skip":
        return Frame("skipped")
    size = meta["rows"] * width(meta["group"], meta["backward"]) * 4
    return Frame("pad", {"index": meta["index"]}, bytes(size))


Play = Callable[[Callable[[int, Frame], Frame | None]], tuple[Scripted, SecondSource]]


@pytest.fixture
def play() -> Iterator[Play]:
    """Makes a source whose pad accelerator answers as a test says."""
    made: list[tuple[Scripted, SecondSource]] = []

    def start(answer: Callable[[int, Frame], Frame | None]) -> tuple[Scripted, SecondSource]:
        script = Scripted(answer)
        made.append((script, SecondSource(script.here, GROUPS, streams_of(STREAMS_SEED))))
        return made[-1]

    yield start
    for script, source in made:
        source.close()
        script.close()


@pytest.fixture
def source(setup: Setup) -> Iterator[SecondSource]:
    with serving(setup) as server:
        made = connect(server.port)
        yield made
        made.close()


def check(setup: Setup, source: SecondSource, group: str, rows: int, backward: bool) -> int:
    """Take a pad, and see that its product is the one of its mask; returns its index."""
    pad = source.take(group, rows, backward=backward)
    pad.key.spend()
    inner, _ = setup.engine.columns(group, backward=backward)
    r = source.streams.mask.mask(pad.key.index, rows, inner)
    assert torch.equal(bare(source, pad), setup.engine.product(group, r, backward=backward))
    return pad.key.index


def test_products_are_right_however_steps_go(setup: Setup, source: SecondSource) -> None:
    """Equal steps, other rows, a step that breaks off, an evaluation, and back."""
    steps = [(7, STEP)] * 4 + [(5, STEP), (9, STEP), (9, STEP[:2]), (9, STEP), (3, STEP[:2])]
    steps += [(3, STEP[:2])] * 3 + [(7, STEP)] * 3
    indices = [
        check(setup, source, group, rows, backward)
        for rows, calls in steps
        for group, backward in calls
    ]
    assert len(set(indices)) == len(indices)
    assert indices == sorted(indices)


def test_equal_steps_are_asked_for_ahead_and_nothing_is_asked_in_vain(play: Play) -> None:
    script, source = play(honest)
    for _ in range(6):
        for group, backward in STEP:
            source.take(group, 4, backward=backward).product()
    kinds = {request.kind for request in script.requests}
    assert kinds == {"pad"}  # no skip
    assert len(source._asked) == len(STEP)


def test_nothing_lies_unread_on_the_wire(
    source: SecondSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a site waits for others: TCP gives a connection up that is not read for minutes."""
    monkeypatch.setattr(second, "AHEAD", 1)
    for group, backward in STEP * 6:
        source.take(group, 64, backward=backward).product()
    while not source._answers._ready:
        threading.Event().wait(0.005)
    threading.Event().wait(0.2)
    assert select.select([source._answers._sock], [], [], 0)[0] == []


def test_the_enclave_keeps_little(source: SecondSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is ready elsewhere: answers stay on the wire until there is room."""
    monkeypatch.setattr(second, "AHEAD", 1)
    for group, backward in STEP * 6:
        source.take(group, 64, backward=backward).product()
    answers = source._answers
    assert len(source._asked) == len(STEP)
    for _ in range(100):
        threading.Event().wait(0.005)
        assert len(answers._ready) <= 1
    assert len(answers._ready) == 1


def test_a_pad_is_spent_once(source: SecondSource) -> None:
    pad = source.take("q", 2, backward=False)
    pad.key.spend()
    with pytest.raises(PadReuseError):
        pad.key.spend()


def test_what_was_skipped_is_spent(setup: Setup, source: SecondSource) -> None:
    for _ in range(4):
        for group, backward in STEP:
            check(setup, source, group, 6, backward)
    left = set(source.streams.mask._unspent)
    assert len(left) == len(STEP)  # asked for ahead
    check(setup, source, "q", 1, False)
    assert not left & source.streams.mask._unspent


def test_a_product_that_was_given_up_is_not_waited_for(source: SecondSource) -> None:
    for _ in range(20):
        pad = source.take("q", 2, backward=False)
        pad.product()
    pad = source.take("q", 2, backward=False)
    source.take("o", 2, backward=False)
    with pytest.raises(OffloadError, match="given up before"):
        pad.product()


@pytest.mark.parametrize("index", [0, 2, -1, None, "1", 2**70])
def test_an_older_answer_or_one_out_of_order_is_refused(play: Play, index: object) -> None:
    """Replayed or exchanged answers are noticed here; altered ones by the check of products."""

    def answer(number: int, request: Frame) -> Frame:
        right = honest(number, request)
        return right if number == 0 else Frame("pad", {"index": index}, right.body)

    _, source = play(answer)
    source.take("q", 2, backward=False).product()
    with pytest.raises(AcceleratorLostError, match="not the one that was asked for"):
        source.take("o", 2, backward=False).product()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda n, r: None, "has gone"),
        (lambda n, r: Frame("pad", {"index": 0}, bytes(4)), "does not hold"),
        (lambda n, r: Frame("pad", {"index": 0}, bytes(1 << 16)), "announces"),
        (lambda n, r: Frame("skipped"), "not the one that was asked for"),
        (lambda n, r: Frame("error", {"message": "no \x1b[31m memory"}), "refused: no"),
        (lambda n, r: Frame("hello"), "not the one that was asked for"),
    ],
)
def test_an_answer_that_is_none_ends_it(
    play: Play, answer: Callable[[int, Frame], Frame | None], said: str
) -> None:
    _, source = play(answer)
    with pytest.raises(AcceleratorLostError, match=said) as caught:
        source.take("q", 2, backward=False).product()
    assert "pad accelerator" in caught.value.message
    assert "\x1b" not in caught.value.message


def test_one_that_goes_in_the_middle_is_named(play: Play) -> None:
    _, source = play(lambda n, r: honest(n, r) if n < 3 else None)
    for _ in range(3):
        source.take("q", 2, backward=False).product()
    with pytest.raises(AcceleratorLostError, match="the pad accelerator has gone"):
        source.take("q", 2, backward=False).product()


def test_one_that_never_answers_is_given_up() -> None:
    here, there = socket.socketpair()
    here.settimeout(0.1)
    source = SecondSource(here, GROUPS, streams_of(STREAMS_SEED))
    with pytest.raises(AcceleratorLostError, match="has gone: timed out"):
        source.take("q", 2, backward=False).product()
    source.close()
    there.close()


def test_nobody_listening_is_a_clear_error(tmp_path: Path) -> None:
    key = KeyPair.generate().public_bytes
    with pytest.raises(AcceleratorLostError, match="no pad accelerator answers at"):
        SecondSource.connect(f"unix:{tmp_path}/no.sock", GROUPS, key=key, job_id=b"j", site="n")


@pytest.mark.parametrize(
    "hello", [Frame("ok"), *(Frame("hello", {}, b"k" * size) for size in (0, 1, 1215))]
)
def test_whoever_greets_otherwise_gets_no_seed(tmp_path: Path, hello: Frame) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/b.sock")
    listener.listen()
    got: list[bytes] = []

    def serve() -> None:
        sock, _ = listener.accept()
        frames.send(sock, hello)
        got.append(sock.recv(1 << 14))
        sock.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    key = KeyPair.generate().public_bytes
    with pytest.raises(AcceleratorLostError):
        SecondSource.connect(f"unix:{tmp_path}/b.sock", GROUPS, key=key, job_id=b"j", site="n")
    thread.join(60)
    assert got == [b""]
    listener.close()


def test_a_new_session_has_other_pads(setup: Setup) -> None:
    """A pad accelerator that restarts, or an enclave that does: never the same pads twice."""
    with serving(setup) as server:
        masks = []
        for _ in range(2):
            source = connect(server.port)
            pad = source.take("q", 4, backward=False)
            masks.append(source.streams.mask.mask(pad.key.index, 4, INNER))
            source.close()
    assert not (masks[0] == masks[1]).any()
