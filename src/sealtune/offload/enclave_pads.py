"""Pads whose products the enclave makes itself: when a call needs one, or ahead in idle time.

A call's first pad is no more than a place in the key stream, so it costs nothing until the codes
are on their way; then its product is made while the accelerator is at work on the same layer.

Between pieces of work (``rest``) a thread makes pads ahead, within a budget, for the calls that
began the last training: in their order, with as many rows as the widest of them. A pad serves any
call of its layer that has no more rows than itself; what no call takes is thrown away, and its
place in the key stream is never used.

Whether a product was made ahead or not changes no number: ring arithmetic is exact.

Trust domain: client enclave.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

from torch import Tensor

from sealtune.errors import OffloadError
from sealtune.offload import ring
from sealtune.offload.frozen import FrozenGroup
from sealtune.offload.pads import Pad, PadKey, PadStream

_Way = tuple[str, bool]  # group, backward


@dataclass(frozen=True)
class _Made:
    key: PadKey
    product: Tensor  # int32 [T, N]


class EnclavePads:
    """``PadSource`` of an enclave that holds the weights.

    Args:
        stream: key stream of the masks.
        frozen: groups by name, with their weights.
        budget: bytes of products that are held ahead; 0: none.
        seconds: running totals; ``pads`` has what the thread spent added to it at each rest.
    """

    suspect = ""

    def __init__(
        self,
        stream: PadStream,
        frozen: Mapping[str, FrozenGroup],
        budget: int,
        seconds: dict[str, float],
    ) -> None:
        self._stream = stream
        self._frozen = frozen
        self._budget = budget
        self._seconds = seconds
        self._wake = threading.Condition()  # guards all that follows
        self._ready: dict[_Way, deque[_Made]] = {}
        self._calls: list[_Way] = []  # since the last rest, as far as the budget reaches
        self._learned = 0  # bytes of their products
        self._widest: dict[_Way, int] = {}
        self._wanted: list[tuple[_Way, int]] = []  # way and rows, in order
        self._spent = 0.0
        self._resting = False
        self._closed = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def take(self, group: str, rows: int, *, backward: bool) -> Pad:
        """See ``PadSource.take``."""
        self._stream.refuse_fork()  # before a lock that a thread of the parent may have held
        way = group, backward
        with self._wake:
            self._resting = False
            if self._failure is not None:
                raise OffloadError(
                    f"making pads ahead has failed: {self._failure}",
                    hint="set protection.pad_budget to less, or to 0 for none",
                ) from self._failure
            self._learn(way, rows)
            ready = self._ready.get(way)
            if ready and len(ready[0].product) >= rows:
                made = ready.popleft()
                return Pad(made.key, lambda: made.product[:rows])
        key = PadKey(self._stream, self._stream.reserve())
        return Pad(key, lambda: self._make(key, way, rows))

    def rest(self, *, wait: bool = False) -> None:
        """See ``PadSource.rest``."""
        with self._wake:
            self._count()
            if self._budget == 0 or self._closed:
                return
            if any(backward for _, backward in self._widest) or not self._wanted:
                self._wanted = self._plan()
            self._calls, self._learned, self._widest = [], 0, {}
            self._drop_others()
            self._resting = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._produce, name="pads", daemon=True)
                self._thread.start()
            self._wake.notify_all()
            if wait:
                self._wake.wait_for(lambda: self._failure or self._closed or not self._missing())
                self._count()

    def close(self) -> None:
        """See ``PadSource.close``."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._wanted = []
        self._drop_others()

    def _count(self) -> None:
        self._seconds["pads"] += self._spent
        self._spent = 0.0

    def _learn(self, way: _Way, rows: int) -> None:
        self._widest[way] = max(rows, self._widest.get(way, 0))
        if self._learned < self._budget:
            self._calls.append(way)
            self._learned += self._size(way, rows)

    def _size(self, way: _Way, rows: int) -> int:
        group, backward = way
        return rows * self._frozen[group].shape(backward=backward)[1] * 4

    def _plan(self) -> list[tuple[_Way, int]]:
        """The first calls since the last rest, as far as the budget reaches."""
        left, wanted = self._budget, []
        for way in self._calls:
            rows = self._widest[way]
            left -= self._size(way, rows)
            if left < 0:
                break
            wanted.append((way, rows))
        return wanted

    def _drop_others(self) -> None:
        """Throw away what is held beyond what is wanted."""
        count, rows = Counter(way for way, _ in self._wanted), dict(self._wanted)
        for way, held in self._ready.items():
            keep: deque[_Made] = deque()
            for made in held:
                if len(keep) < count[way] and len(made.product) == rows[way]:
                    keep.append(made)
                else:
                    made.key.spend()
            self._ready[way] = keep

    def _next(self) -> tuple[_Way, int] | None:
        """Wait for something that is wanted and not held, the most urgent first; None: closed."""
        with self._wake:
            while not self._closed:
                if self._resting and (missing := self._missing()):
                    return missing
                self._wake.wait()
        return None

    def _missing(self) -> tuple[_Way, int] | None:
        """The first that is wanted and not held."""
        held = Counter({way: len(made) for way, made in self._ready.items()})
        for way, rows in self._wanted:
            if held[way] == 0:
                return way, rows
            held[way] -= 1
        return None

    def _produce(self) -> None:
        try:
            while (job := self._next()) is not None:
                start = perf_counter()
                key = PadKey(self._stream, self._stream.reserve())
                made = _Made(key, self._make(key, *job))
                with self._wake:
                    self._spent += perf_counter() - start
                    self._ready.setdefault(job[0], deque()).append(made)
                    self._drop_others()  # it may have become one of them while it was made
                    self._wake.notify_all()
        except BaseException as error:  # whatever it is, the next call says it
            with self._wake:
                self._failure = error
                self._wake.notify_all()

    def _make(self, key: PadKey, way: _Way, rows: int) -> Tensor:
        group, backward = way
        frozen = self._frozen[group]
        assert frozen.weight is not None, "weights are kept for these pads"
        matrix = frozen.weight if backward else frozen.weight.t()
        return ring.product(key.stream.mask(key.index, rows, len(matrix)), matrix)
