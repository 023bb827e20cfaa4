"""The round driver: a server enclave's program says what to ask whom, the driver does the rest.

A program is a generator:

    answered = yield Ask({"north": message, "south": message}, round, check, take, outcomes)
    yield None    # nothing to send: the relay hears that a long piece of work goes on

To the relay, the driver is bytes out, bytes in, one outcome a site:

    next()                what to send to which site, or None when the program has ended
    reply(site, body)     a site's answer
    absent(site, reason)  there is none

Every site that ``next`` names is answered for by exactly one of the other two. A relay that calls
``next`` before that has lost what was under way, or is a new one: it gets the very same bytes for
the sites that have not been answered for, and a site answers a repeat as it did before. A site
without a channel is taken through the handshake before it is asked; one that fails loses its
channel. Nothing that a site sends fails another site.

Trust domain: server enclave. The relay is untrusted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from sealtune import frames
from sealtune.channel.sealed import NO_CHANNEL
from sealtune.channel.shared import Messages, is_short, share
from sealtune.errors import FrameError, RollbackError, SealtuneError
from sealtune.frames import Frame
from sealtune.party.admit import Admitted
from sealtune.party.events import Emit
from sealtune.party.history import History
from sealtune.party.outcome import Outcomes
from sealtune.party.site_link import SiteLink

T = TypeVar("T")
_REPEATS = 1000  # times that messages under way are handed out again
_RESTARTS = 3  # times that a site may have lost its channel while it is asked one thing


@dataclass(frozen=True)
class Ask(Generic[T]):
    """A message to each of some sites, and what is done with the answers as they come.

    Attributes:
        questions: site -> message.
        round: that messages and answers are sealed for.
        check: reads one site's answer and changes nothing; what it raises fails that site alone.
        take: takes in what ``check`` returned; what it raises ends the job.
        outcomes: told what becomes of each site; may go on from an earlier Ask.
        patience: messages in a row that a site may lose before it has failed.
        anew: server and sites prove themselves anew before they go on with each other.
    """

    questions: Mapping[str, Frame]
    round: int
    check: Callable[[str, Frame], T]
    take: Callable[[str, T], None]
    outcomes: Outcomes
    patience: int = 1
    anew: bool = False


Program = Generator[Ask[Any] | None, list[str], None]  # is sent the sites whose answer was taken


class Server(Protocol):
    """What a server enclave does in a job.

    Attributes:
        answer_limit: bytes that an honest site's opened answer has at most.
    """

    answer_limit: int

    @property
    def history(self) -> History | None:
        """Its finished rounds, which sites follow; None: they do not believe it anyway."""

    def program(self) -> Program:
        """The whole of it."""


class Driver:
    """Channels to all sites, and what is under way with each.

    Args:
        server: what is done.
        admitted: the job.
        emit: told when a site has been attested.

    Attributes:
        deadline: seconds that a site may take for one message.
        max_message: bytes that an honest site's message has at most.
    """

    def __init__(self, server: Server, admitted: Admitted, emit: Emit) -> None:
        self._job_id = bytes.fromhex(admitted.job_id)
        self.deadline = admitted.settings.network.deadline
        self.max_message = 2 * server.answer_limit
        self._limit = server.answer_limit
        self._program = server.program()
        self._links = {
            site: SiteLink(site, self._job_id, one, emit, server.history)
            for site, one in admitted.trust.items()
        }
        self._ask: Ask[Any] | None = None
        self._answered: Any = None  # what the program is sent next: a generator starts with None
        self._chances: dict[str, int] = {}  # site that the Ask waits for -> messages it may lose
        self._awaited = Messages()  # of the sites that are to be answered for
        self._asked: set[str] = set()  # those of them that hold the question, not a handshake
        self._since = monotonic()  # when these messages were made
        self._repeats = 0  # times that they were handed out again
        self._restarts: Counter[str] = Counter()  # during this Ask, by site

    def next(self) -> Messages | None:
        """Messages to send now, or None when the job is done.

        Raises:
            SealtuneError: the job cannot go on.
        """
        if self._awaited.own and self._repeats < _REPEATS:
            self._repeats += 1
            return self._under_way()
        for site in sorted(self._awaited.own):
            self.absent(site, "no outcome was reported")
        while not self._chances:
            try:
                self._ask = self._program.send(self._answered)
            except StopIteration:
                return None
            self._answered = []
            if self._ask is None:
                return Messages()
            self._chances = dict.fromkeys(self._ask.questions, self._ask.patience)
            self._restarts.clear()
            for link in self._links.values() if self._ask.anew else ():
                link.drop()  # of sites that are not asked, too: their next question may be far off
        return self._send(self._current)

    @property
    def left(self) -> int:
        """Seconds of the deadline that are left for what is under way; at least one."""
        return max(1, math.ceil(self._since + self.deadline - monotonic()))

    def reply(self, site: str, body: bytes) -> None:
        """Take one site's answer; a bad one fails that site only, in whatever way it is bad.

        Raises:
            RollbackError: it proves that this enclave has been at a later state, or at another.
            SealtuneError: it is good and cannot be taken in.
        """
        ask, link, opened = self._turn_of(site), self._links[site], False
        ask.outcomes[site].bytes_up += len(body)
        if body == NO_CHANNEL:
            self._shake_hands_anew(site)
            return
        try:
            if site not in self._asked:
                link.on_handshake_reply(body)
                return
            plain = link.unseal(body, ask.round)
            opened = True  # what is wrong from here on, the site itself has sent
            answer = frames.decode(plain, max_body=self._limit)
            link.check_refusal(answer)
            checked = ask.check(site, answer)
        except RollbackError:
            raise
        except Exception as error:  # the last ones are what no check foresaw
            foreseen = error.message if isinstance(error, SealtuneError) else ""
            why = foreseen or f"unforeseen {type(error).__name__}"
            ask.outcomes[site].rejected = opened
            self._fail(site, f"refused: {why}")
            return
        ask.take(site, checked)
        ask.outcomes[site].succeed()
        self._answered.append(site)
        del self._chances[site]

    def absent(self, site: str, reason: str) -> None:
        """There is no answer from this site."""
        self._turn_of(site)
        self._chances[site] -= 1
        if self._chances[site]:
            self._links[site].drop()
        else:
            self._fail(site, reason, late="deadline" in reason)

    @property
    def _current(self) -> Ask[Any]:
        if self._ask is None:
            raise FrameError("nothing was asked")
        return self._ask

    def _send(self, ask: Ask[Any]) -> Messages:
        """Ask every site that is left; those without a channel shake hands first, all together."""
        strangers = [site for site in self._chances if not self._links[site].open]
        if strangers:
            outgoing = Messages({s: self._links[s].handshake_message() for s in strangers})
        else:
            questions = {site: ask.questions[site] for site in self._chances}
            part, questions = share(questions, self._job_id, ask.round)
            own = {s: self._links[s].seal(q, ask.round, part) for s, q in questions.items()}
            outgoing = Messages(own, part, {s for s, q in questions.items() if is_short(q)})
        self._asked = set() if strangers else set(outgoing)
        for site in outgoing:
            ask.outcomes[site].bytes_down += outgoing.size(site)
        self._awaited, self._since, self._repeats = outgoing, monotonic(), 0
        return self._under_way()

    def _under_way(self) -> Messages:
        """Of the sites that have not been answered for."""
        return replace(self._awaited, own=dict(self._awaited.own))

    def _turn_of(self, site: str) -> Ask[Any]:
        """One outcome for each message: a second answer must not count twice."""
        if site not in self._awaited.own:
            raise FrameError(f"an outcome for {site[:40]!r}, of which nothing was asked")
        del self._awaited.own[site]
        return self._current

    def _shake_hands_anew(self, site: str) -> None:
        """The site was started anew, or so it is said: it gets a channel and is asked again."""
        self._links[site].drop()
        self._restarts[site] += 1
        if self._restarts[site] > _RESTARTS:
            self._fail(site, f"it was started anew more than {_RESTARTS} times")

    def _fail(self, site: str, reason: str, *, late: bool = False) -> None:
        self._links[site].drop()
        self._current.outcomes[site].fail(reason, late=late)
        del self._chances[site]
