"""An accelerator that answers as it should not: every answer is checked before it is used."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from sealtune import frames
from sealtune.errors import AcceleratorLostError
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.offload import wire
from sealtune.offload.arena import Arena
from sealtune.offload.remote import RemoteAccelerator
from tests.offload.layers import product

GROUP = LinearGroup(name="q", members=("q", "k"), in_features=4, out_features=(2, 3), backward=True)
Answer = Callable[[Frame], bytes]


class Scripted:
    """Answers each request with what a test says, as bytes, and keeps the requests."""

    def __init__(self) -> None:
        self.here, self._there = socket.socketpair()
        self.here.settimeout(30)
        self.requests: list[Frame] = []
        self.arena: Arena | None = None
        self.answer: Answer = lambda request: frames.encode(Frame("ok"))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                request = frames.receive(self._there)
                self.requests.append(request)
                if request.kind == "arena":
                    self.attach(request)
                else:
                    self._there.sendall(self.answer(request))
        except (EOFError, OSError):
            self._there.close()

    def attach(self, request: Frame) -> None:
        """Take the shared memory, as it should be done."""
        self.arena = Arena.attach(wire.receive_descriptor(self._there), request.meta["bytes"])
        seen = bytes(self.arena.probe(0))
        self.arena.probe(1)[:] = seen[::-1]
        self._there.sendall(frames.encode(Frame("ok", {"seen": seen.hex()})))


@pytest.fixture
def script() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.here.close()


def frame(kind: str, meta: Mapping[str, Any] | None = None, body: bytes = b"") -> Answer:
    return lambda _request: frames.encode(Frame(kind, meta or {}, body))


def remote(script: Scripted, *, shared: bool = False) -> RemoteAccelerator:
    return RemoteAccelerator(script.here, (GROUP,), shared_memory=shared)


def codes(rows: int, cols: int) -> torch.Tensor:
    return torch.arange(rows * cols, dtype=torch.int32).view(rows, cols)


@pytest.mark.parametrize(("backward", "cols", "width"), [(False, 4, 5), (True, 5, 4)])
def test_a_product_of_the_right_length_is_taken(
    script: Scripted, backward: bool, cols: int, width: int
) -> None:
    body = struct.pack(f"<{2 * width}i", *range(2 * width))
    script.answer = frame("product", {}, body)
    found = product(remote(script), "q", codes(2, cols), backward=backward)
    assert torch.equal(found, codes(2, width))
    (request,) = script.requests
    assert request.kind == "product"
    assert request.meta == {"group": "q", "backward": backward, "rows": 2}
    assert request.body == struct.pack(f"<{2 * cols}i", *range(2 * cols))


@pytest.mark.parametrize("size", [0, 4, 36, 39])
def test_a_product_that_is_too_short_is_refused(script: Scripted, size: int) -> None:
    script.answer = frame("product", {}, bytes(size))
    with pytest.raises(AcceleratorLostError, match="body does not hold 2 x 5 codes"):
        product(remote(script), "q", codes(2, 4), backward=False)


@pytest.mark.parametrize("size", [41, 44, 80])
def test_a_product_that_is_too_long_is_refused_unread(script: Scripted, size: int) -> None:
    script.answer = frame("product", {}, bytes(size))
    with pytest.raises(AcceleratorLostError, match=f"announces {size} bytes of body, limit 40"):
        product(remote(script), "q", codes(2, 4), backward=False)


def test_with_shared_memory_no_body_is_taken(script: Scripted) -> None:
    script.answer = frame("product", {}, b"x")
    with pytest.raises(AcceleratorLostError, match="announces 1 bytes of body, limit 0"):
        product(remote(script, shared=True), "q", codes(2, 4), backward=False)


def test_shared_memory_holds_both_sides_and_grows_when_needed(script: Scripted) -> None:
    def answer(request: Frame) -> bytes:
        assert script.arena is not None
        inner, outer = (5, 4) if request.meta["backward"] else (4, 5)
        rows = request.meta["rows"]
        script.arena.codes(rows, inner, outer)[1].copy_(codes(rows, outer))
        return frames.encode(Frame("product"))

    script.answer = answer
    near = remote(script, shared=True)
    sizes = []
    for rows, backward in ((204, False), (204, True), (205, True), (256, False), (204, True)):
        found = product(near, "q", codes(rows, 5 if backward else 4), backward=backward)
        assert torch.equal(found, codes(rows, 4 if backward else 5))
        sizes.append(script.arena.size if script.arena else 0)
    assert sizes == [8192, 8192, 12288, 12288, 12288]  # 204 x 5 codes are 4,080 bytes
    assert [request.kind for request in script.requests].count("arena") == 2


def test_a_refusal_is_told_in_its_words(script: Scripted) -> None:
    script.answer = frame("error", {"message": "no such group"})
    with pytest.raises(AcceleratorLostError) as caught:
        product(remote(script), "q", codes(2, 4), backward=False)
    assert caught.value.message == "the accelerator refused: no such group"


def test_a_long_refusal_is_cut(script: Scripted) -> None:
    script.answer = frame("error", {"message": "m" * 60_000})
    with pytest.raises(AcceleratorLostError) as caught:
        product(remote(script), "q", codes(2, 4), backward=False)
    assert len(caught.value.message) < 600


def test_a_group_outside_the_plan_is_not_asked_for(script: Scripted) -> None:
    with pytest.raises(AcceleratorLostError, match="group elsewhere is not in the slice plan"):
        product(remote(script), "elsewhere", codes(2, 4), backward=False)
    assert not script.requests


def test_another_kind_of_answer_is_refused(script: Scripted) -> None:
    script.answer = frame("ok")
    with pytest.raises(AcceleratorLostError, match="refused: ok"):
        product(remote(script), "q", codes(2, 4), backward=False)


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
SIZE = 2 * 3 * 4 * 4  # batch, length, hidden size, bytes


def test_a_prefix_of_the_right_size_is_taken(script: Scripted) -> None:
    script.answer = frame("prefix", {"dim": 4}, struct.pack("<24f", *range(24)))
    found = remote(script).prefix(IDS)
    assert torch.equal(found, torch.arange(24.0).view(2, 3, 4))
    (request,) = script.requests
    assert request.meta == {"batch": 2, "length": 3}
    assert request.body == struct.pack("<6q", *range(1, 7))


@pytest.mark.parametrize(
    ("dim", "size"),
    [(4, SIZE - 4), (4, 0), (4, SIZE - 1), (5, SIZE), (3, SIZE), (None, SIZE), (5, SIZE - 4)],
)
def test_a_prefix_of_another_size_is_refused(script: Scripted, dim: int | None, size: int) -> None:
    script.answer = frame("prefix", {"dim": dim}, bytes(size))
    with pytest.raises(AcceleratorLostError, match="prefix of the wrong size"):
        remote(script).prefix(IDS)


def test_a_prefix_that_is_too_long_is_refused_unread(script: Scripted) -> None:
    script.answer = frame("prefix", {"dim": 4}, bytes(SIZE + 1))
    with pytest.raises(AcceleratorLostError, match=f"limit {SIZE}"):
        remote(script).prefix(IDS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_prefix_that_is_not_finite_is_refused(script: Scripted, bad: float) -> None:
    script.answer = frame("prefix", {"dim": 4}, struct.pack("<24f", *range(23), bad))
    with pytest.raises(AcceleratorLostError, match="not finite"):
        remote(script).prefix(IDS)


@pytest.mark.parametrize("answer", [b"", b"STF1", b"HTTP/1.1 200 OK\r\n\r\n\r\n"])
def test_an_answer_that_is_no_frame_is_refused(script: Scripted, answer: bytes) -> None:
    def end(_request: Frame) -> bytes:
        script._there.sendall(answer)
        script._there.shutdown(socket.SHUT_RDWR)
        raise OSError

    script.answer = end
    with pytest.raises(AcceleratorLostError, match="the accelerator has gone"):
        product(remote(script), "q", codes(2, 4), backward=False)


def test_closing_says_goodbye_and_closes_everything(script: Scripted) -> None:
    script.answer = frame("product")
    near = remote(script, shared=True)
    product(near, "q", codes(2, 4), backward=False)
    near.close()
    near.close()  # again is no harm
    assert script.here.fileno() == -1
    for _ in range(500):
        if script._there.fileno() == -1:
            break
        threading.Event().wait(0.01)
    assert [request.kind for request in script.requests] == ["arena", "product", "bye"]
