"""What every program of the server enclave is to the glue: bytes out, bytes in, one outcome a site.

    next()                what to send to which site now, or None when all is done
    reply(site, body)     a site's answer
    absent(site, reason)  there is none

Every site that ``next`` names is answered for by exactly one of the other two before ``next`` is
called again; ``next`` may name none, which only gives the program time to work. A site without a
channel is taken through the handshake first; one that fails loses its channel.

Trust domain: server enclave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from sealtune.enclave.round_state import Entry
from sealtune.enclave.site_link import SiteLink
from sealtune.errors import (
    AttestationError,
    ChannelError,
    DataError,
    FrameError,
    ModelError,
)
from sealtune.frames import Frame


class ServerProgram(ABC):
    """Channels and outcomes of all sites.

    Args:
        links: each site's channel.
        deadline: seconds that a site may take for one message.
        answer_limit: bytes that an honest site's opened answer has at most.
    """

    def __init__(
        self, links: Mapping[str, SiteLink], *, deadline: float, answer_limit: int
    ) -> None:
        self._links = dict(links)
        self.deadline = deadline
        self._limit = answer_limit
        self._asked: dict[str, int] = {}  # site -> round of the sealed question that it was sent
        self._awaited: set[str] = set()  # sites that have not been answered for
        self._entries = self._fresh_entries()

    @property
    def max_message(self) -> int:
        """Bytes that an honest site's message has at most."""
        return 2 * self._limit

    @abstractmethod
    def next(self) -> dict[str, bytes] | None:
        """Messages to send now, or None when the job is done. Begin with ``_settle``."""

    @abstractmethod
    def _on_answer(self, site: str, answer: Frame) -> None:
        """Take a site's opened answer to a sealed question.

        Raises:
            ChannelError, DataError, ModelError: it is refused, and the site with it.
        """

    def reply(self, site: str, body: bytes) -> None:
        """Take one site's answer; a bad one fails that site only."""
        self._take(site)
        link = self._links[site]
        self._entries[site].bytes_up += len(body)
        try:
            if site in self._asked:
                round_ = self._asked.pop(site)
                self._on_answer(site, link.unseal(body, round_, max_body=self._limit))
            else:
                link.on_handshake_reply(body)
        except (ChannelError, AttestationError, DataError, ModelError) as error:
            self._lose(site, f"refused: {error.message}")

    def absent(self, site: str, reason: str) -> None:
        """There is no answer from this site."""
        self._take(site)
        self._lose(site, reason, late="deadline" in reason)

    def _settle(self) -> None:
        """Count sites that the glue lost track of, or that it asked before it was restarted."""
        for site in sorted(self._awaited):
            self.absent(site, "no outcome was reported")

    def _send(self, questions: Mapping[str, Frame], round: int) -> dict[str, bytes]:
        """Seal a question to each site; sites without a channel shake hands first, all together."""
        strangers = [site for site in questions if not self._links[site].open]
        if strangers:
            outgoing = {site: self._links[site].handshake_message() for site in strangers}
        else:
            outgoing = {s: self._links[s].seal(frame, round) for s, frame in questions.items()}
            self._asked = dict.fromkeys(outgoing, round)
        for site, body in outgoing.items():
            self._entries[site].bytes_down += len(body)
        self._awaited = set(outgoing)
        return outgoing

    def _take(self, site: str) -> None:
        """One outcome for each message: a second answer must not count twice."""
        if site not in self._awaited:
            raise FrameError(f"an outcome for {site[:40]!r}, of which nothing was asked")
        self._awaited.remove(site)

    def _lose(self, site: str, reason: str, *, late: bool = False) -> None:
        self._links[site].drop()
        self._asked.pop(site, None)
        self._entries[site].fail(reason, late=late)

    def _fresh_entries(self) -> dict[str, Entry]:
        return {site: Entry(reason="") for site in self._links}


def reasons(entries: Mapping[str, Entry]) -> str:
    """Why sites failed, in one line."""
    return "; ".join(f"{site}: {e.reason}" for site, e in entries.items() if e.outcome != "ok")
