"""The rounds that a server enclave has finished, as a chain: whoever knows one of its heads can
tell whether a later one goes on from it.

    link of round r     HMAC of the state after it, under a key of the server enclave's alone
    digest after r      SHA-256( job id, r, digest after r - 1, link of r ), 32 zero bytes before 0

The links lie in the sealed checkpoint, which is written before anything of the round is made known.
Sites are told links: they say nothing of the state, and the same state has the same link. With each
head goes the server's mark, an HMAC, by which it knows later what it once told.

Trust domain: server enclave; sites follow the chain with ``Head``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.errors import FrameError
from sealtune.frames import is_count, length_prefixed

SIZE = 32  # bytes of a digest, a link, a mark
MAX_ROUND = 1 << 20
REFUSED = "refused"  # kind of a site's answer to a head that it does not follow; says what it saw
_LABEL = b"sealtune/history/v1"


@dataclass(frozen=True)
class Head:
    """Where a chain stands.

    Attributes:
        round: the last finished one; -1: none is.
        digest: of the chain up to it.
    """

    round: int = -1
    digest: bytes = bytes(SIZE)

    def then(self, job_id: bytes, link: bytes) -> Head:
        """The head one round later."""
        number = self.round + 1
        content = length_prefixed(_LABEL, job_id, str(number).encode(), self.digest, link)
        return Head(number, hashlib.sha256(content).digest())


@dataclass(frozen=True)
class Stated:
    """What a message says of a head.

    Attributes:
        head: where the server is, or was.
        links: of the last rounds up to it.
        mark: the server's.
    """

    head: Head
    links: Sequence[bytes]
    mark: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """For a frame's ``meta``."""
        return {
            "round": self.head.round,
            "digest": self.head.digest.hex(),
            "mark": self.mark.hex(),
            "links": b"".join(self.links).hex(),
        }

    @classmethod
    def read(cls, fields: object) -> Stated:
        """Of a frame's ``meta``.

        Raises:
            FrameError: it is none.
        """
        try:
            if not isinstance(fields, Mapping) or len(fields) != 4:
                raise ValueError
            number = fields["round"]
            digest, mark, links = (bytes.fromhex(fields[k]) for k in ("digest", "mark", "links"))
            if not is_count(number) and (number, type(number)) != (-1, int):
                raise ValueError
            if number > MAX_ROUND or len(links) % SIZE or len(links) > SIZE * (number + 1):
                raise ValueError
            if len(digest) != SIZE or len(mark) != SIZE:
                raise ValueError
        except (KeyError, TypeError, ValueError) as error:
            raise FrameError("a message does not say after which round it comes") from error
        each = [links[i : i + SIZE] for i in range(0, len(links), SIZE)]
        return cls(Head(number, digest), each, mark)


class History:
    """The chain of one server.

    Args:
        key: the enclave's sealing key.
        job_id: 48 bytes.

    Attributes:
        links: of all finished rounds.
    """

    def __init__(self, key: bytes, job_id: bytes) -> None:
        self._links_key, self._marks_key = (
            HKDF(SHA384(), 32, salt=job_id, info=_LABEL + what).derive(key)
            for what in (b"/links", b"/marks")
        )
        self._job_id = job_id
        self._heads = [Head()]
        self.links: list[bytes] = []

    @property
    def head(self) -> Head:
        """After the last finished round."""
        return self._heads[-1]

    def link(self, round_: int, state: bytes) -> bytes:
        """The link of a round, given all that the checkpoint holds after it."""
        return _mac(self._links_key, round_, state)

    def extend(self, links: Sequence[bytes]) -> None:
        """Go on by so many rounds."""
        for link in links:
            self._heads.append(self.head.then(self._job_id, link))
            self.links.append(link)

    def stated(self, known: int = -1) -> Stated:
        """The head, for somebody who has followed up to round ``known``."""
        return Stated(self.head, self.links[known + 1 :], self._mark(self.head))

    def disproves(self, told: Stated) -> bool:
        """Whether this very enclave once told a head that its state does not come after."""
        if not hmac.compare_digest(told.mark, self._mark(told.head)):
            return False  # anybody could say so
        after = told.head.round + 1
        return after >= len(self._heads) or self._heads[after] != told.head

    def _mark(self, head: Head) -> bytes:
        return _mac(self._marks_key, head.round, head.digest)


def _mac(key: bytes, round_: int, content: bytes) -> bytes:
    made = hmac.new(key, b"%d:" % round_, hashlib.sha256)
    made.update(content)
    return made.digest()
