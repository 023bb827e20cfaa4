"""The end of a split job: every site is told of it, and gets the adapter if it is released.

    server -> site   finish    part i of n; files and their sizes with each
    site -> server   received  how many parts in a row it has

Trust domain: server enclave (sending), data owner (receiving; sizes are checked before use).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sealtune.errors import ChannelError, FrameError
from sealtune.frames import Frame, is_count

PART = 30 << 20  # bytes; one piece of the network engine
MAX_PARTS = 1 << 16
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


class Received:
    """A site's side: takes the parts in their order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._announced: tuple[int, dict[str, int]] | None = None

    @property
    def have(self) -> int:
        """Parts that are here."""
        return len(self._parts)

    def take(self, message: Frame) -> dict[str, bytes] | None:
        """Take one part; a part that is not the next one changes nothing.

        Returns:
            The files, when this was the last part; none were released if there are none.

        Raises:
            FrameError: not a part of any farewell, or sizes that do not add up.
        """
        part, of, sizes = (message.meta.get(key) for key in ("part", "of", "files"))
        if not is_count(part) or not is_count(of) or not 0 < of <= MAX_PARTS or part >= of:
            raise FrameError("the end of the job came in parts that make no sense")
        if not isinstance(sizes, dict) or not all(is_count(size) for size in sizes.values()):
            raise FrameError("the server's files have no sizes")
        if len(message.body) > PART or sum(sizes.values()) > of * PART:
            raise FrameError("a part of the end, or what it announces, is too large")
        if self._announced not in (None, (of, sizes)):
            raise FrameError("the end of the job changed while it came")
        self._announced = (of, sizes)
        if part == self.have:
            self._parts.append(bytes(message.body))
        if self.have < of:
            return None
        body = b"".join(self._parts)
        if sum(sizes.values()) != len(body):
            raise FrameError("the sizes of the server's files do not add up")
        files: dict[str, bytes] = {}
        start = 0
        for name, size in sizes.items():
            files[str(name)] = body[start : start + size]
            start += size
        return files
