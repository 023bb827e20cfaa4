"""The transport over Flower: pieces, own polling, deadlines, and one retry after another.

Flower's ``Grid.send_and_receive`` knows one timeout for all and hands back what it has; this loop
follows each site on its own and accounts for each.

A site is the SuperNode registered under the site's name. What can go wrong with one, and what is
done about it while the deadline allows:

- it has not joined, or is offline: wait for it;
- it was lost with the message (it came back since the message left, or Flower says so): send anew;
- its node or enclave answered that it failed: the site is absent, with that reason.

Sending anew may deliver the same bytes twice. That is the enclave's to notice: it answers a repeat
of the last message with the same bytes as before.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from sealtune.errors import FrameError
from sealtune.federation.enclave_link import Outcome
from sealtune.federation.link_grid import LinkGrid
from sealtune.federation.payload import MESSAGE_TYPE, integer, pack, piece, pieces, text, unpack
from sealtune.federation.spool import MAX_MESSAGE
from sealtune.frames import Frame

POLL = 0.03  # seconds; the link state is in this process
LONG_POLL = 0.25  # seconds, for messages that have been away for minutes
NODE_POLL = 0.25  # seconds between two looks at which SuperNodes are there
WINDOW = 2  # pieces under way to a site: the next one waits at the relay when it is asked for
ATTEMPTS = 5  # times a message is sent to a site that keeps getting lost
BACKOFF = 1.0  # seconds before sending anew; doubles with every attempt
TTL_MARGIN = 60.0  # seconds that Flower keeps a message beyond its deadline

# flwr.common.constant.ErrorCode, which is not public; a test holds these against it.
_LOST = {
    3: "its message expired inside Flower",
    4: "its answer expired inside Flower",
    5: "its SuperNode went offline",
}


class _LostError(Exception):
    """This attempt came to nothing; another may succeed."""


class _FailedError(Exception):
    """The site answered, and its answer is no."""


@dataclass
class _Flight:
    """The exchange with one site."""

    site: str
    body: bytes
    begun: float
    limit: int = MAX_MESSAGE  # bytes of an answer that somebody reads
    attempt: int = 0
    exchange: str = ""
    node: tuple[int, str] | None = None  # (id, last activation) of the SuperNode asked
    waiting: dict[str, int] = field(default_factory=dict)  # message id -> piece asked or sent
    next_piece: int = 0  # of the message while `answer` is empty, of the answer from then on
    answer: dict[int, bytes] = field(default_factory=dict)
    answer_count: int = 0
    not_before: float = 0.0
    trouble: str = ""  # why the last attempt came to nothing
    end: tuple[bytes | None, str] | None = None  # the answer, or why there is none

    def begin(self, node: tuple[int, str]) -> None:
        self.attempt += 1
        self.exchange = secrets.token_hex(8)
        self.node = node
        self.waiting.clear()
        self.answer.clear()
        self.next_piece = self.answer_count = 0

    def next_frame(self) -> Frame | None:
        """The next piece to send or to ask for, if any may leave now."""
        if len(self.waiting) >= WINDOW:
            return None
        index = self.next_piece
        if self.answer_count == 0:
            count = pieces(len(self.body))
            if index >= count:
                return None
            meta = {"exchange": self.exchange, "index": index, "count": count}
            return Frame("put", meta, piece(self.body, index))
        if index >= self.answer_count:
            return None
        return Frame("get", {"exchange": self.exchange, "index": index})

    def take(self, asked: int, message: Message) -> None:
        """Use a reply to one of this flight's messages."""
        if message.has_error():
            code, reason = message.error.code, message.error.reason
            if code in _LOST:
                raise _LostError(_LOST[code])
            raise _FailedError(f"its SuperNode failed with Flower's code {code}: {reason}")
        frame = unpack(message.content)
        if frame.kind == "failed":
            raise _FailedError(text(frame, "message"))
        if text(frame, "exchange") != self.exchange:
            raise FrameError("an answer to another exchange")
        if frame.kind == "stored":
            return
        if frame.kind != "reply":
            raise FrameError(f"unknown answer {frame.kind[:40]!r}")
        index, count = integer(frame, "index"), integer(frame, "count")
        if self.answer_count == 0:
            if index != 0 or count < 1:
                raise FrameError("an answer that does not start at its start")
            if count > pieces(min(self.limit, MAX_MESSAGE)):
                raise FrameError(f"an answer of {count} pieces")
            self.answer_count, self.next_piece = count, 1
        elif (index, count) != (asked, self.answer_count):
            raise FrameError("a piece of the answer that was not asked for")
        self.answer[index] = bytes(frame.body)

        if len(self.answer) == count:
            self.finish(b"".join(self.answer[i] for i in range(count)))

    def finish(self, body: bytes | None, reason: str = "") -> None:
        """This is the outcome; what else was under way does not count."""
        self.waiting.clear()
        self.end = body, reason

    def lose(self, reason: str) -> None:
        """Give up this attempt, and the site with it when there have been too many."""
        self.waiting.clear()
        self.node, self.trouble = None, reason
        if self.attempt >= ATTEMPTS:
            self.finish(None, f"{reason} ({self.attempt} attempts)")
        self.not_before = time.monotonic() + BACKOFF * 2 ** max(0, self.attempt - 1)

    def outcome(self, body: bytes | None, reason: str) -> Outcome:
        """As it is reported."""
        seconds = time.monotonic() - self.begun
        return Outcome(self.site, body, reason, max(1, self.attempt), seconds, len(self.body))

    def overdue(self, deadline: float) -> str:
        """Why a site has no answer when its time is up."""
        when = f"before its deadline of {deadline:g} s"
        if self.node is not None:
            return f"no answer {when}"
        if self.trouble:
            return f"{self.trouble}, and it has not come back {when}"
        return f"no SuperNode of this name has joined {when}"


class FlowerTransport:
    """Carries one message to each of several sites and brings back one answer from each.

    Args:
        grid: Flower, of the one run there is.
        poll: seconds between two polls.
        node_poll: seconds between two looks at the SuperNodes.
        log: told what is retried and why, one line a time.
    """

    def __init__(
        self,
        grid: LinkGrid,
        *,
        poll: float = POLL,
        node_poll: float = NODE_POLL,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._grid = grid
        self._poll = poll
        self._node_poll = node_poll
        self._log = log
        self._flights: dict[str, _Flight] = {}  # by site, until its outcome has been reported
        self._nodes: dict[str, NodeInfo] = {}
        self._looked = float("-inf")

    def exchange(
        self,
        outgoing: Mapping[str, bytes],
        deadline: float,
        report: Callable[[Outcome], None],
        left: float | None = None,
        limit: int = MAX_MESSAGE,
    ) -> None:
        """Deliver ``outgoing`` (site -> bytes) and report every site exactly once.

        ``report`` is called as soon as a site's outcome is known, from the calling thread. A site
        that has not answered in time is reported without a body; no site is left out, and the call
        returns when all have been reported. When ``report`` raises, the call ends, and one that is
        asked for the same bytes afterwards goes on where this one ended.

        Args:
            deadline: seconds that a site may take.
            left: seconds of them that are left; default: all.
            limit: bytes of an answer that somebody reads: more is not kept here until it is whole.
        """
        start, known = time.monotonic(), self._flights
        left = deadline if left is None else left
        self._flights = {
            site: known[site]
            if site in known and known[site].body == body
            else _Flight(site, body, start, limit)
            for site, body in outgoing.items()
        }
        self._looked = float("-inf")
        while self._flights:
            away = time.monotonic() - start
            if away < left:
                self._look()
                self._send(left - away)
                self._collect()
            for flight in list(self._flights.values()):
                if not flight.end and away >= left:
                    flight.finish(None, flight.overdue(deadline))
                if flight.end:
                    report(flight.outcome(*flight.end))
                    del self._flights[flight.site]
            if self._flights:
                pause = max(self._poll, min(LONG_POLL, away / 60))
                time.sleep(max(0.0, min(pause, start + left - time.monotonic())))

    def _look(self) -> None:
        """Refresh which SuperNode is which site; of several with one name, the latest joined."""
        if time.monotonic() - self._looked < self._node_poll:
            return
        self._looked = time.monotonic()
        nodes = sorted(self._grid.nodes(), key=lambda node: node.last_activated_at)
        self._nodes = {node.name: node for node in nodes if node.status == "online"}

    def _send(self, left: float) -> None:
        """Start what can be started, and send what each window allows."""
        for flight in self._flights.values():
            try:
                if not flight.end:
                    self._send_one(flight, left)
            except _LostError as error:
                self._lost(flight, error)

    def _send_one(self, flight: _Flight, left: float) -> None:
        info = self._nodes.get(flight.site)
        node = None if info is None else (info.node_id, info.last_activated_at)
        if flight.node is None:
            if node is None or time.monotonic() < flight.not_before:
                return
            flight.begin(node)
        elif node is not None and node != flight.node:
            raise _LostError("its SuperNode was lost and came back")
        while (frame := flight.next_frame()) is not None and flight.node is not None:
            message = Message(
                pack(frame), flight.node[0], MESSAGE_TYPE, ttl=left + TTL_MARGIN, group_id="sealed"
            )
            identity = self._grid.push(message)
            if not identity:
                raise _LostError("Flower refused its message")
            flight.waiting[identity] = flight.next_piece
            flight.next_piece += 1

    def _collect(self) -> None:
        """Fetch the replies that are there and act on them."""
        owner = {
            identity: flight for flight in self._flights.values() for identity in flight.waiting
        }
        for message in self._grid.pull(owner.keys()) if owner else ():
            identity = message.metadata.reply_to_message_id
            flight = owner.get(identity)
            asked = None if flight is None else flight.waiting.pop(identity, None)
            if flight is None or asked is None:
                continue  # not asked for, or of an attempt that was given up in this very loop
            try:
                flight.take(asked, message)
            except _LostError as error:
                self._lost(flight, error)
            except (_FailedError, FrameError) as error:
                flight.finish(None, str(error))

    def _lost(self, flight: _Flight, error: _LostError) -> None:
        flight.lose(str(error))
        if flight.end is None:
            self._log(f"{flight.site}: {error}; sending anew when it is there")
