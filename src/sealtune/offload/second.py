"""Pads whose products a pad accelerator makes: the enclave multiplies nothing and holds no weights.

What comes next follows from what came before (``call_order``) and is asked for ahead; the pad
accelerator holds it, and the enclave fetches the next few. What was asked for in vain (a step of
other rows, the end of a round) is skipped: its indices stay used.

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
from typing import Self

import torch
from torch import Tensor

from sealtune import frames, sockets
from sealtune.errors import AcceleratorLostError, FrameError, KeyReleaseError, OffloadError
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.job.printable import printable
from sealtune.offload import wire
from sealtune.offload.call_order import Call, CallOrder
from sealtune.offload.pad_wire import HALF, Streams, seal_seed, streams_of
from sealtune.offload.pads import Pad, PadKey

AHEAD = 1 << 24  # bytes of answers that lie ready in the enclave or are under way; one may be more
MOST_ASKED = 512  # requests ahead of their use
_HELLO = 1 << 12  # more than a public key has
_HINT = "see the pad accelerator's log; start the run again with --resume"


@dataclass(frozen=True)
class _Asked:
    index: int
    call: Call
    columns: int  # of the answer

    @property
    def size(self) -> int:
        return self.call.rows * self.columns * 4


class SecondSource:
    """Pads of one enclave from its pad accelerator.

    Args:
        sock: connected, the seed handed over.
        groups: of the slice plan; they say how wide each answer must be.
        streams: of the seed.
    """

    suspect = ", or the pad accelerator's for its mask,"

    def __init__(
        self, sock: socket.socket, groups: Sequence[LinearGroup], streams: Streams
    ) -> None:
        self.streams = streams
        self._columns: Mapping[tuple[str, bool], int] = {
            (group.name, backward): group.in_features if backward else sum(group.out_features)
            for group in groups
            for backward in (False, True)
        }
        self._answers = _Answers(sock)
        self._asked: deque[_Asked] = deque()  # not taken yet
        self._order = CallOrder()

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
        try:
            sock = sockets.connect(address, timeout=timeout, patience=patience)
        except OSError as error:
            raise AcceleratorLostError(
                f"no pad accelerator answers at {address}: {error}", hint="is it running?"
            ) from error
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

    def take(self, group: str, rows: int, *, backward: bool) -> Pad:
        """See ``PadSource.take``.

        Raises:
            AcceleratorLostError: the pad accelerator has gone.
            OffloadError: no such group.
        """
        call = Call(group, backward, rows)
        self._order.add(call)
        if not self._asked or self._asked[0].call != call:
            self._skip()
            self._ask(call)
        one = self._asked.popleft()
        while len(self._asked) < MOST_ASKED and (following := self._order.ahead(len(self._asked))):
            self._ask(following)
        mask, blind = (PadKey(stream, one.index) for stream in self.streams)
        blind.spend()
        return Pad(mask, lambda: self._answers.take(one), blind)

    def rest(self, *, wait: bool = False) -> None:
        """See ``PadSource.rest``: whoever makes the pads does not rest."""

    def close(self) -> None:
        """Say goodbye and close."""
        self._answers.close()

    def _ask(self, call: Call) -> None:
        columns = self._columns.get(call[:2])
        if columns is None:
            raise OffloadError(f"group {call.group} is not in the slice plan")
        one = _Asked(self._reserve(), call, columns)
        self._answers.ask(one)
        self._asked.append(one)

    def _reserve(self) -> int:
        """An index that is fresh in both key streams; they are reserved together."""
        index, same = (stream.reserve() for stream in self.streams)
        assert index == same
        return index

    def _skip(self) -> None:
        if not self._asked:
            return
        for one in self._asked:
            for stream in self.streams:
                stream.spend(one.index)
        self._asked.clear()
        self._answers.skip()


class _Answers:
    """The connection: requests go out, a thread of its own takes answers in, in their order."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._expected: deque[_Asked | None] = deque()  # None: where a skip is answered
        self._unfetched: deque[_Asked] = deque()  # the last of them
        self._ready: deque[tuple[_Asked, Tensor]] = deque()
        self._held = self._coming = 0  # bytes that are ready, and that were fetched
        self._skips = 0  # that are not answered yet
        self._last = -1  # index that was asked for last
        self._lost = -1  # last index that was skipped
        self._failure: OffloadError | None = None
        self._open = True
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, one: _Asked) -> None:
        with self._changed:
            self._expected.append(one)
            self._unfetched.append(one)
            self._last = one.index
        self._send(Frame("pad", {"index": one.index, **one.call._asdict()}))
        self._fetch()

    def skip(self) -> None:
        with self._changed:
            self._expected.append(None)
            self._skips += 1
            self._lost = self._last
            self._unfetched.clear()
            self._ready.clear()
            self._held = self._coming = 0
            self._changed.notify_all()
        self._send(Frame("skip"))

    def take(self, one: _Asked) -> Tensor:
        """Wait for the answer to ``one``; older ones that nobody took are let go."""
        while one.index > self._lost:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._failure)
                if not self._ready:
                    assert self._failure is not None
                    raise self._failure
                found, product = self._ready.popleft()
                self._held -= found.size
            self._fetch()
            if found is one:
                return product
        raise OffloadError(
            f"the product of pad {one.index} was given up before it was asked for",
            hint="this is a defect: stop the run and report it",
        )

    def _fetch(self) -> None:
        """Let as many come as there is room for: what nobody reads would end a TCP connection."""
        count = 0
        with self._changed:
            while self._unfetched and self._held + self._coming < AHEAD:
                self._coming += self._unfetched.popleft().size
                count += 1
            self._changed.notify_all()
        if count:
            self._send(Frame("fetch", {"count": count}))

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
            while self._is_due():
                one = self._expected[0]
                limit = 0 if one is None else one.size
                answer, size = frames.receive_head(self._sock, max_body=limit)
                self._keep(one, answer, self._product(one, size))
        except OffloadError as error:
            self._fail(error)
        except (OSError, EOFError, FrameError) as error:
            self._fail(_gone(error))

    def _is_due(self) -> bool:
        """Wait until there is an answer to come; False: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open or self._coming or self._skips)
            return self._open

    def _product(self, one: _Asked | None, size: int) -> Tensor | None:
        """An answer's body, in private memory."""
        if one is None or not size:
            return None
        wire.check_body(size, one.call.rows, one.columns)
        product = torch.empty((one.call.rows, one.columns), dtype=torch.int32)
        frames.read_into(self._sock, wire.tensor_bytes(product))
        return product

    def _keep(self, one: _Asked | None, answer: Frame, product: Tensor | None) -> None:
        if answer.kind == "error":
            raise _refused(answer)
        with self._changed:
            if answer.kind == "skipped" and self._skips:
                while self._expected.popleft() is not None:
                    pass  # asked for, and not made
                self._skips -= 1
                return
            right = one is not None and answer.meta.get("index") == one.index
            if one is None or product is None or answer.kind != "pad" or not right:
                raise AcceleratorLostError(
                    "the pad accelerator's answer is not the one that was asked for: older, or out "
                    "of order",
                    hint=_HINT,
                )
            self._expected.popleft()
            if not self._skips:
                self._ready.append((one, product))
                self._held += one.size
                self._coming -= one.size
            self._changed.notify_all()

    def _fail(self, error: OffloadError) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()


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
