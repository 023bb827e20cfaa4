"""What the relay needs from a network, whatever it is made of.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass


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


class Transport(ABC):
    """Carries one message to each of several sites and brings back one answer from each."""

    @abstractmethod
    def exchange(
        self,
        outgoing: Mapping[str, bytes],
        deadline: float,
        report: Callable[[Outcome], None],
    ) -> None:
        """Deliver ``outgoing`` (site -> bytes) and report every site exactly once.

        ``report`` is called as soon as a site's outcome is known, from the calling thread. A site
        that has not answered ``deadline`` seconds after the call is reported without a body; no
        site is left out, and the call returns when all have been reported.
        """
