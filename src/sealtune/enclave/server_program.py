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
from collections.abc import Callable, Collection, Mapping

from sealtune.enclave.round_state import Entry
from sealtune.enclave.site_link import SiteLink
from sealtune.errors import FrameError, SealtuneError, SiteLostError
from sealtune.frames import Frame
from sealtune.job.resolved import Resolved


class ServerProgram(ABC):
    """Channels and outcomes of all sites.

    Args:
        resolved: the job.
        links: each site's channel.
        answer_limit: bytes that an honest site's opened answer has at most.

    Attributes:
        deadline: seconds that a site may take for one message.
    """

    def __init__(
        self, resolved: Resolved, links: Mapping[str, SiteLink], *, answer_limit: int
    ) -> None:
        self._manifest = resolved.manifest
        self._links = dict(links)
        self.deadline = resolved.job.network.deadline
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
    def _read_answer(self, site: str, answer: Frame) -> Callable[[], None]:
        """Check all of a site's opened answer to a sealed question, and change nothing yet.

        Returns:
            what takes the checked answer into the job.

        Raises:
            SealtuneError: it is refused, and the site with it.
        """

    def reply(self, site: str, body: bytes) -> None:
        """Take one site's answer; a bad one fails that site only, in whatever way it is bad.

        Raises:
            StorageError: the answer is good and cannot be kept.
        """
        self._take(site)
        link = self._links[site]
        self._entries[site].bytes_up += len(body)
        try:
            if site in self._asked:
                round_ = self._asked.pop(site)
                answer = link.unseal(body, round_, max_body=self._limit)
                accept = self._read_answer(site, answer)
            else:
                link.on_handshake_reply(body)
                return
        except SealtuneError as error:
            self._lose(site, f"refused: {error.message}")
        except Exception as error:  # what no check foresaw; nothing has been changed
            self._lose(site, f"refused: unforeseen {type(error).__name__}")
        else:
            accept()

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

    def _check_cohort(self, sites: Collection[str], done: str) -> None:
        """Raise SiteLostError unless ``sites``, which have ``done`` it, are a cohort."""
        if self._manifest.is_cohort(sites):
            return
        quorum, cohort = self._manifest.settings.quorum, self._manifest.min_cohort
        raise SiteLostError(
            f"only {len(sites)} of {len(self._links)} sites {done}; needed are {quorum}, of at "
            f"least {cohort} organisations: {reasons(self._entries)}",
            hint="bring the site back and continue with --resume, or lower network.min_sites",
        )

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
