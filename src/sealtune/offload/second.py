"""Pads whose products a pad accelerator makes: the enclave multiplies nothing and holds no weights.

The order of a step's calls is learned from the one before and asked for ahead, with one step more
while this one runs; a reader thread fetches the next few answers. What was asked for in vain (a
step of other rows, the end of a round) is skipped: its indices stay used.

Trust domain: site enclave. The pad accelerator is believed to keep the seed from the accelerator,
and nothing else: its answers are checked with the accelerator's.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import NamedTuple, Self

from torch import Tensor

from sealtune import frames, sockets
from sealtune.errors import AcceleratorLostError, FrameError, KeyReleaseError, OffloadError
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.job.printable import printable
from sealtune.offload import wire
from sealtune.offload.pad_wire import HALF, Streams, seal_seed, streams_of

AHEAD = 1 << 24  # bytes of answers that lie ready in the enclave; one more is under way
_HELLO = 1 << 12  # more than a public key has
_RETRY = 0.1  # seconds
_HINT = "see the pad accelerator's log; start the run again with --resume"


class Call(NamedTuple):
    """One product of a step."""

    group: str
    backward: bool


@dataclass(frozen=True)
class SecondPad:
    """A pad, and the product that takes it off again, itself under a key stream.

    Attributes:
        index: of both key streams.
        product: int32 [T, N], ``W r + q``.
    """

    index: int
    product: Tensor


@dataclass(frozen=True)
class _Asked:
    index: int
    call: Call
    rows: int
    columns: int  # of the answer

    @property
    def size(self) -> int:
        return self.rows * self.columns * 4


class SecondSource:
    """Pads of one enclave from its pad accelerator.

    Args:
        sock: connected, the seed handed over.
        groups: of the slice plan; they say how wide each answer must be.
        streams: of the seed.
    """

    def __init__(
        self, sock: socket.socket, groups: Sequence[LinearGroup], streams: Streams
    ) -> None:
        self.streams = streams
        self._columns: Mapping[Call, int] = {
            Call(group.name, backward): group.in_features if backward else sum(group.out_features)
            for group in groups
            for backward in (False, True)
        }
        self._answers = _Answers(sock)
        self._asked: deque[_Asked] = deque()  # not taken yet
        self._calls: list[Call] = []  # of the pass that runs
        self._pass = (0, False)  # its rows, and whether it has a backward part
        self._orders: dict[bool, tuple[Call, ...]] = {}

    @classmethod
    def connect(
        cls,
        address: str,
        groups: Sequence[LinearGroup],
        *,
        key: bytes,
        job_id: bytes,
        site: str,
        timeout: float = 600,
        patience: float = 0,
    ) -> Self:
        """Connect, and hand over a fresh seed.

        Args:
            address: see ``sockets``.
            key: the pad accelerator's public key in the signed manifest.
            job_id: SHA-384 of the job.
            site: this site.
            timeout: seconds without any answer after which it counts as lost.
            patience: seconds that it may still need before it listens.

        Raises:
            AcceleratorLostError: nothing answers, or not as a pad accelerator of this job does.
        """
        sock = _reach(address, timeout, patience)
        seed = secrets.token_bytes(2 * HALF)
        try:
            hello = _receive(sock, "hello", _HELLO)
            sealed = seal_seed(seed, key, bytes(hello.body), job_id=job_id, site=site)
            frames.send(sock, Frame("open", {"job": job_id.hex(), "site": site}, sealed))
            _receive(sock, "ok", 0)
        except (OSError, KeyReleaseError) as error:
            sock.close()
            raise _gone(error) from error
        except BaseException:
            sock.close()
            raise
        return cls(sock, groups, streams_of(seed))

    def begin(self, rows: int, *, backward: bool) -> None:
        """A pass begins: ask for its pads; if it is as the last one was, for those of one more.

        Args:
            rows: token rows of each call.
            backward: whether a backward pass follows.

        Raises:
            AcceleratorLostError: it has gone.
        """
        if self._calls:
            self._orders[self._pass[1]] = tuple(self._calls)
        again = self._pass == (rows, backward)
        self._calls, self._pass = [], (rows, backward)
        waiting = [(one.call, one.rows) for one in self._asked]
        wanted = [(call, rows) for call in self._orders.get(backward, ())] * (2 if again else 1)
        if waiting != wanted[: len(waiting)]:
            self._skip()
            waiting = []
        for call, count in wanted[len(waiting) :]:
            self._ask(call, count)

    def take(self, group: str, rows: int, *, backward: bool) -> SecondPad:
        """The pad of the next call; nobody gets it again.

        Raises:
            AcceleratorLostError: it has gone, or its answer is not the one that was asked for.
            OffloadError: no such group.
        """
        call = Call(group, backward)
        self._calls.append(call)
        if not self._asked or (self._asked[0].call, self._asked[0].rows) != (call, rows):
            self._skip()
            self._ask(call, rows)
        one = self._asked.popleft()
        return SecondPad(one.index, self._answers.take(one))

    def close(self) -> None:
        """Say goodbye and close."""
        self._answers.close()

    def _ask(self, call: Call, rows: int) -> None:
        columns = self._columns.get(call)
        if columns is None:
            raise OffloadError(f"group {call.group} is not in the slice plan")
        one = _Asked(self.streams.mask.reserve(), call, rows, columns)
        self._answers.ask(one)
        self._asked.append(one)

    def _skip(self) -> None:
        if self._asked:
            self._asked.clear()
            self._answers.skip()


class _Answers:
    """The connection: requests go out, a thread of its own takes answers in, in their order."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._expected: deque[_Asked | None] = deque()  # None: where a skip is answered
        self._ready: deque[tuple[_Asked, Tensor]] = deque()
        self._held = 0
        self._skips = 0  # that are not answered yet
        self._failure: OffloadError | None = None
        self._open = True
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, one: _Asked) -> None:
        with self._changed:
            self._expected.append(one)
            self._changed.notify_all()
        call = one.call
        meta = {"index": one.index, "group": call.group, "backward": call.backward}
        self._send(Frame("pad", {**meta, "rows": one.rows}))

    def skip(self) -> None:
        with self._changed:
            self._expected.append(None)
            self._skips += 1
            self._ready.clear()
            self._held = 0
            self._changed.notify_all()
        self._send(Frame("skip"))

    def take(self, one: _Asked) -> Tensor:
        """Wait for the answer to ``one``, the oldest request that was not skipped."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure)
            if not self._ready:
                assert self._failure is not None
                raise self._failure
            found, product = self._ready.popleft()
            assert found is one
            self._held -= one.size
            self._changed.notify_all()
            return product

    def close(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        try:
            frames.send(self._sock, Frame("bye"))
            self._sock.shutdown(socket.SHUT_RDWR)  # and with it the thread's wait
        except OSError:
            pass  # it has gone already, which is what was wanted
        finally:
            self._sock.close()

    def _send(self, frame: Frame) -> None:
        try:
            frames.send(self._sock, frame)
        except OSError as error:
            raise self._failure or _gone(error) from error

    def _read(self) -> None:
        try:
            while self._has_room():
                one = self._expected[0]
                limit = 0 if one is None else one.size
                self._keep(one, frames.receive(self._sock, max_body=limit))
        except OffloadError as error:
            self._fail(error)
        except (OSError, EOFError, FrameError) as error:
            self._fail(_gone(error))

    def _has_room(self) -> bool:
        """Wait until there is an answer to come, and room for it; False: it is over."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._open or (self._expected and (self._held < AHEAD or self._skips > 0))
                )
            )
            return self._open

    def _keep(self, one: _Asked | None, answer: Frame) -> None:
        if answer.kind == "error":
            raise _refused(answer)
        with self._changed:
            if answer.kind == "skipped" and self._skips:
                while self._expected.popleft() is not None:
                    pass  # asked for, and not made
                self._skips -= 1
                return
            if one is None or answer.kind != "pad" or answer.meta.get("index") != one.index:
                raise AcceleratorLostError(
                    "the pad accelerator's answer is not the one that was asked for: older, or out "
                    "of order",
                    hint=_HINT,
                )
            self._expected.popleft()
            if not self._skips:
                product = wire.codes_from_bytes(answer.body, one.rows, one.columns)
                self._ready.append((one, product))
                self._held += one.size
            self._changed.notify_all()

    def _fail(self, error: OffloadError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()


def _reach(address: str, timeout: float, patience: float) -> socket.socket:
    last = monotonic() + patience
    while True:
        try:
            return sockets.connect(address, timeout=timeout)
        except OSError as error:
            if monotonic() >= last:
                raise AcceleratorLostError(
                    f"no pad accelerator answers at {address}: {error}", hint="is it running?"
                ) from error
            sleep(_RETRY)


def _receive(sock: socket.socket, kind: str, limit: int) -> Frame:
    try:
        answer = frames.receive(sock, max_body=limit)
    except (EOFError, FrameError) as error:
        raise _gone(error) from error
    if answer.kind == "error":
        raise _refused(answer)
    if answer.kind != kind:
        raise AcceleratorLostError("what listens there is no pad accelerator", hint=_HINT)
    return answer


def _refused(answer: Frame) -> AcceleratorLostError:
    message = printable(str(answer.meta.get("message"))[:500])
    return AcceleratorLostError(f"the pad accelerator refused: {message}", hint=_HINT)


def _gone(error: Exception) -> AcceleratorLostError:
    return AcceleratorLostError(f"the pad accelerator has gone: {error}", hint=_HINT)
