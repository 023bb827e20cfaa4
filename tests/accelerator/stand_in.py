"""A device with queues that is none: what it is given happens late, and in the worst order.

Work waits until somebody waits for a mark. Then queues advance in random order, each to where it
has to wait for another, until the mark is passed, and no further. What a lane does not order may
happen in any order here, as on a GPU.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable

import torch


class StandIn:
    """See ``sealtune.accelerator.devices.Device``.

    Attributes:
        pins: addresses of memory that is pinned.
        owned: pinned memory that it gave out.
    """

    def __init__(self, seed: int = 0, *, can_pin: bool = True) -> None:
        self.where = torch.device("cpu")
        self.pins: set[int] = set()
        self.owned: list[torch.Tensor] = []
        self._can_pin = can_pin
        self._random = random.Random(seed)
        self._queues: list[Queue] = []
        self._lock = threading.Lock()

    def queue(self) -> Queue:
        made = Queue(self)
        self._queues.append(made)
        return made

    def pinned(self, count: int) -> torch.Tensor:
        made = torch.full((count,), -1, dtype=torch.int32)
        self.owned.append(made)
        return made

    def pin(self, memory: torch.Tensor) -> bool:
        if self._can_pin:
            assert memory.data_ptr() not in self.pins
            self.pins.add(memory.data_ptr())
        return self._can_pin

    def unpin(self, memory: torch.Tensor) -> None:
        self.pins.remove(memory.data_ptr())

    def settle(self) -> None:
        self._advance(lambda: not self.pending)

    @property
    def pending(self) -> int:
        """Pieces of work that have not happened."""
        return sum(len(queue.waiting) for queue in self._queues)

    def _advance(self, reached: Callable[[], bool]) -> None:
        with self._lock:
            while not reached():
                ready = [queue for queue in self._queues if queue.waiting and queue.may_go()]
                assert ready, "every queue waits for another"
                self._random.choice(ready).step()


class Queue:
    """See ``sealtune.accelerator.devices.Queue``."""

    def __init__(self, device: StandIn) -> None:
        self._device = device
        self.waiting: deque[Callable[[], object] | Mark | Barrier] = deque()

    def run(self, work: Callable[[], object]) -> None:
        self.waiting.append(work)

    def mark(self) -> Mark:
        made = Mark(self._device)
        self.waiting.append(made)
        return made

    def after(self, mark: Mark) -> None:
        self.waiting.append(Barrier(mark))

    def may_go(self) -> bool:
        first = self.waiting[0]
        return not isinstance(first, Barrier) or first.mark.passed

    def step(self) -> None:
        first = self.waiting.popleft()
        if isinstance(first, Mark):
            first.passed = True
        elif not isinstance(first, Barrier):
            first()


class Mark:
    """See ``sealtune.accelerator.devices.Mark``."""

    def __init__(self, device: StandIn) -> None:
        self._device = device
        self.passed = False

    def wait(self) -> None:
        self._device._advance(lambda: self.passed)


class Barrier:
    """Nothing behind it before another queue's mark."""

    def __init__(self, mark: Mark) -> None:
        self.mark = mark
