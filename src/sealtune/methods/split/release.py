"""The end of a split job: every site is told of it, and gets the adapter if it is released.

Trust domain: server enclave. What a site answers is not trusted to be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sealtune.errors import ChannelError
from sealtune.frames import Frame, is_count
from sealtune.methods.split.messages import PART

_SETBACKS = 3  # times that a site may have no more parts than before


def release_parts(files: Mapping[str, bytes], round: int) -> list[Frame]:
    """The messages that end a job.

    Args:
        files: of the adapter; none: it stays in the enclave.
        round: the job's last.
    """
    body = b"".join(files.values())
    count = max(1, -(-len(body) // PART))
    sizes = {name: len(data) for name, data in files.items()}
    return [
        Frame(
            "finish",
            {"round": round, "part": i, "of": count, "files": sizes},
            body[i * PART : (i + 1) * PART],
        )
        for i in range(count)
    ]


class Release:
    """The server's side: which part each site is sent next.

    Args:
        parts: of ``release_parts``.
        sites: who gets them.
    """

    def __init__(self, parts: list[Frame], sites: Iterable[str]) -> None:
        self._parts = parts
        self._have = dict.fromkeys(sites, 0)  # parts in a row
        self._setbacks = dict.fromkeys(self._have, 0)

    @property
    def next_parts(self) -> dict[str, Frame]:
        """What to send to each site that does not have everything yet."""
        return {s: self._parts[have] for s, have in self._have.items() if have < len(self._parts)}

    def check(self, site: str, answer: Frame) -> int:
        """How many parts a site has; a restarted one has none.

        Raises:
            ChannelError: it cannot have so many, or asks for the same ones again and again.
        """
        have = answer.meta.get("have")
        if answer.kind != "received" or not is_count(have):
            raise ChannelError(f"answered the end with {answer.kind[:40]!r}")
        if have > len(self._parts):
            raise ChannelError(f"has {have} of {len(self._parts)} parts of the end")
        if have <= self._have[site] and self._setbacks[site] + 1 >= _SETBACKS:
            raise ChannelError("asks for the same part again and again")
        return have

    def take(self, site: str, have: int) -> None:
        """Go on from there."""
        self._setbacks[site] += have <= self._have[site]
        self._have[site] = have
