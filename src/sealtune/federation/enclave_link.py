"""The connections between Flower's programs and the enclaves, seen from the untrusted side.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeGuard

from sealtune import frames, sockets
from sealtune.errors import FederationError, FrameError
from sealtune.federation.payload import text
from sealtune.frames import Frame

_LOOK = 0.5  # seconds between two looks for a client enclave


@dataclass(frozen=True)
class Outcome:
    """What became of the message to one site.

    Attributes:
        site: the site's name.
        body: the site's answer, or None when there is none.
        reason: why there is no answer; empty when there is one.
        attempts: how many times the message was sent.
        seconds: wall time from the start of the exchange to this outcome.
        bytes_down: size of the sealed message to the site.
    """

    site: str
    body: bytes | None
    reason: str
    attempts: int
    seconds: float
    bytes_down: int

    @property
    def bytes_up(self) -> int:
        """Size of the answer."""
        return 0 if self.body is None else len(self.body)


def connect(address: str) -> socket.socket:
    """Connect to an enclave.

    Raises:
        FederationError: nobody listens there.
    """
    try:
        return sockets.connect(address)
    except OSError as error:
        why = error.strerror or error
        raise FederationError(f"no enclave listens on {address}: {why}") from error


class Order(NamedTuple):
    """What the aggregator wants sent.

    Attributes:
        to: site -> sealed bytes.
        deadline: seconds that a site may take.
        left: seconds of them that are left, of an order that is given out again.
    """

    to: dict[str, bytes]
    deadline: float
    left: float


class ServerEnclave:
    """The aggregator, which says what to send where and is told every outcome.

    Args:
        sock: connected to it, or to its link.

    Attributes:
        limit: bytes of one answer that the enclave reads.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.limit = frames.MAX_BODY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def next(self) -> Order | None:
        """What to send now, or None at the end.

        Raises:
            ConnectionError: the connection is lost.
            FederationError: the enclave says that the run has failed.
            FrameError: the enclave broke the protocol.
        """
        answer = self._ask(Frame("next"))
        if answer.kind == "done":
            with contextlib.suppress(OSError):
                frames.send(self._sock, Frame("bye"))  # the enclave need not tell another relay
            return None
        if answer.kind == "failed":
            raise FederationError(f"the server enclave gave up: {text(answer, 'message')}")
        if answer.kind != "send":
            raise FrameError(f"the server enclave answered 'next' with {answer.kind!r}")
        limit = answer.meta.get("limit", frames.MAX_BODY)
        if not frames.is_count(limit):
            raise FrameError("'send' names no length of answers")
        self.limit = limit
        return _split(answer)

    def report(self, outcome: Outcome) -> None:
        """Tell the enclave what became of one site's message.

        It hangs up on what is too long to be an answer: such a site counts as absent.

        Raises:
            ConnectionError, FederationError, FrameError: as ``next``.
        """
        if outcome.body is not None and len(outcome.body) > self.limit:
            reason = f"its answer has {len(outcome.body)} bytes, at most {self.limit} are read"
            outcome = replace(outcome, body=None, reason=reason)
        if outcome.body is not None:
            answer = self._ask(Frame("reply", {"site": outcome.site}, outcome.body))
        else:
            meta = {"site": outcome.site, "reason": outcome.reason}
            answer = self._ask(Frame("absent", meta))
        if answer.kind == "failed":
            raise FederationError(f"the server enclave gave up: {text(answer, 'message')}")
        if answer.kind != "ok":
            raise FrameError(f"the server enclave answered a report with {answer.kind!r}")

    def _ask(self, question: Frame) -> Frame:
        try:
            frames.send(self._sock, question)
            return frames.receive(self._sock)
        except (EOFError, OSError, FrameError) as error:
            raise ConnectionError(f"the server enclave went away: {error}") from error


def _split(answer: Frame) -> Order:
    """Take a "send" frame's body apart by the sizes in its meta.

    What is left behind the sites' own bytes is the end of the messages to sites that are ``alike``.
    """
    sizes, deadline = answer.meta.get("to"), answer.meta.get("deadline")
    left = answer.meta.get("left", deadline)
    if not isinstance(sizes, dict) or not _is_time(deadline) or not _is_time(left):
        raise FrameError("'send' should name its sites' sizes and a deadline")
    body = memoryview(answer.body)
    outgoing: dict[str, bytes] = {}
    start = 0
    for site, size in sizes.items():
        if not isinstance(size, int) or size < 0 or start + size > body.nbytes:
            raise FrameError("'send' announces sizes that do not add up")
        outgoing[site] = bytes(body[start : start + size])
        start += size
    alike = answer.meta.get("alike", [])
    if not isinstance(alike, list) or not all(isinstance(s, str) and s in outgoing for s in alike):
        raise FrameError("'send' names sites that it has nothing for")
    if (start != body.nbytes) != bool(alike):
        raise FrameError("'send' announces sizes that do not add up")
    for site in set(alike):
        outgoing[site] += body[start:]
    return Order(outgoing, float(deadline), float(left))


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 < value < math.inf


def deliver(address: str, body: bytes, *, patience: float = 0.0) -> bytes:
    """Hand a sealed message to a client enclave and wait, maybe for minutes, for its answer.

    Args:
        patience: seconds to wait for an enclave that is not there, or no longer, to be started
            again; it gets the message anew.

    Raises:
        FederationError: no enclave there, it went away, or it says that it failed.
        FrameError: the enclave broke the protocol.
    """
    waited = 0.0
    while (answer := _delivered(address, body, final=waited >= patience)) is None:
        time.sleep(_LOOK)
        waited += _LOOK
    if answer.kind == "failed":
        raise FederationError(f"the client enclave failed: {text(answer, 'message')}")
    if answer.kind != "reply":
        raise FrameError(f"the client enclave answered 'deliver' with {answer.kind!r}")
    return bytes(answer.body)


def _delivered(address: str, body: bytes, *, final: bool) -> Frame | None:
    """What the enclave answers; None if it is not there, unless this try is the ``final`` one."""
    try:
        with connect(address) as sock:
            try:
                frames.send(sock, Frame("deliver", {}, body))
                return frames.receive(sock)
            except (EOFError, OSError) as error:
                raise FederationError(f"the client enclave went away: {error}") from error
    except FederationError:
        if final:
            raise
        return None
