"""Pads in their order: asked for, made, waiting to be fetched.

Three threads meet here: one takes requests from the wire, one makes pads, one sends them.

Trust domain: pad accelerator.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from sealtune.errors import FrameError
from sealtune.frames import Frame

MOST_ASKED = 1 << 16  # requests that wait; a step of a large model has a thousand


@dataclass(frozen=True)
class Asked:
    """One pad to make.

    Attributes:
        index: its place in the key streams.
        group, backward: what it is multiplied with.
        rows: T.
        inner, outer: columns of the pad and of its product.
    """

    index: int
    group: str
    backward: bool
    rows: int
    inner: int
    outer: int


class Line:
    """One connection's pads.

    Args:
        window: bytes of products that may wait; one more may be under way.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._asked: deque[Asked] = deque()
        self._made: deque[Frame] = deque()
        self._held = 0
        self._wanted = 0  # pads that the enclave has room for
        self._epoch = 0  # what was begun in an earlier one is thrown away
        self._open = True
        self._changed = threading.Condition()

    def ask(self, one: Asked) -> None:
        """Let ``one`` be made after what was asked for before.

        Raises:
            FrameError: too many wait.
        """
        with self._changed:
            if len(self._asked) >= MOST_ASKED:
                raise FrameError(f"more than {MOST_ASKED} pads were asked for ahead")
            self._asked.append(one)
            self._changed.notify_all()

    def fetch(self, count: int) -> None:
        """Let so many more be sent.

        Raises:
            FrameError: more than anybody has asked for.
        """
        with self._changed:
            self._wanted += count
            if self._wanted > MOST_ASKED:
                raise FrameError(f"more than {MOST_ASKED} pads are fetched")
            self._changed.notify_all()

    def skip(self) -> None:
        """Forget what was not sent yet, and say so in its place."""
        with self._changed:
            self._asked.clear()
            # what an earlier skip says has to be said still
            self._made = deque(frame for frame in self._made if frame.kind == "skipped")
            self._made.append(Frame("skipped"))
            self._held = self._wanted = 0
            self._epoch += 1
            self._changed.notify_all()

    def next_to_make(self) -> tuple[int, Asked] | None:
        """Wait for a request, and for room; None: the connection has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._open or (self._asked and self._held < self._window)
            )
            return (self._epoch, self._asked.popleft()) if self._open else None

    def put(self, epoch: int, frame: Frame) -> None:
        """A pad that ``next_to_make`` ordered in ``epoch``."""
        with self._changed:
            if epoch == self._epoch:
                self._made.append(frame)
                self._held += _size(frame)
                self._changed.notify_all()

    def next_to_send(self) -> Frame | None:
        """Wait for something that may be sent; None: the connection has ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._open or (self._made and (self._wanted or self._made[0].kind != "pad"))
                )
            )
            if not self._open:
                return None
            frame = self._made.popleft()
            self._wanted -= frame.kind == "pad"
            self._held -= _size(frame)
            self._changed.notify_all()
            return frame

    def close(self) -> None:
        """Let everybody go."""
        with self._changed:
            self._open = False
            self._changed.notify_all()


def _size(frame: Frame) -> int:
    return memoryview(frame.body).nbytes
