"""Where a node keeps the pieces of one long message, and then of its answer.

Everything is sealed. The spool holds one exchange at a time and is bounded in bytes and in files:
a message, or an answer, of at most ``MAX_MESSAGE`` bytes. What another exchange left goes with the
first piece of a new one, what a killed program left goes when the next one starts, and what
nobody has asked for in ``STALE`` seconds goes, too.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

import time
from pathlib import Path

from sealtune.errors import FrameError
from sealtune.federation import payload
from sealtune.federation.payload import piece, pieces

MAX_MESSAGE = 2 << 30  # bytes of one sealed message
STALE = 3600.0  # seconds after which what lies here is nobody's


class Spool:
    """The pieces of one exchange.

    Args:
        folder: a folder of this site's own; whatever a spool left in it is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exchange = ""
        self._count = 0  # pieces of the message
        self._have: set[int] = set()
        self._answer = 0  # pieces of the answer that lies here
        self._touched = time.monotonic()
        self.clear()

    def clear(self) -> None:
        """Delete everything."""
        self._exchange, self._count, self._answer = "", 0, 0
        self._have.clear()
        for pattern in ("*.piece", "*.part"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Delete what nobody has asked for in a long time."""
        if self._exchange and time.monotonic() - self._touched > STALE:
            self.clear()

    def add(self, exchange: str, index: int, count: int, body: bytes) -> bytes | None:
        """Take in a piece of a message; the whole message when it was the last one missing.

        Raises:
            FrameError: it fits neither the bounds nor the pieces that are here.
            OSError: the disk refuses.
        """
        limit = pieces(MAX_MESSAGE)
        if count > limit:
            raise FrameError(
                f"a message of {count} pieces, but this site keeps at most {limit} "
                f"of {payload.PIECE} bytes"
            )
        if not index < count:
            raise FrameError(f"piece {index} of {count} makes no sense")
        if len(body) > payload.PIECE or (index < count - 1 and len(body) != payload.PIECE):
            raise FrameError(f"piece {index} of {count} has {len(body)} bytes")
        self._open(exchange, count)
        if count == 1:
            return body
        if index not in self._have:
            self._write(index, body)
            self._have.add(index)
        if len(self._have) < count:
            return None
        message = b"".join(self._path(i).read_bytes() for i in range(count))
        self._forget(count)
        return message

    def keep(self, exchange: str, answer: bytes) -> int:
        """Keep an answer of more than one piece for those who ask; returns its pieces.

        Raises:
            FrameError: it is too long.
            OSError: the disk refuses.
        """
        if len(answer) > MAX_MESSAGE:
            raise FrameError(
                f"an answer of {len(answer)} bytes, but this site keeps at most {MAX_MESSAGE}"
            )
        count = pieces(len(answer))
        self._open(exchange, self._count)
        if count > 1:
            for index in range(count):
                self._write(index, piece(answer, index))
            self._answer = count
        return count

    def get(self, exchange: str, index: int) -> tuple[bytes, int]:
        """A piece of the answer, and how many there are.

        Raises:
            FrameError: no such answer lies here, or it has no such piece.
        """
        if exchange != self._exchange or not self._answer:
            raise FrameError("this site no longer holds that answer")
        if not index < self._answer:
            raise FrameError(f"the answer has {self._answer} pieces, none with index {index}")
        self._touched = time.monotonic()
        return self._path(index).read_bytes(), self._answer

    def _open(self, exchange: str, count: int) -> None:
        """Make this the exchange whose pieces lie here."""
        if exchange != self._exchange:
            self.clear()
            self._exchange, self._count = exchange, count
        elif count != self._count:
            raise FrameError(f"a message of {self._count} pieces has become one of {count}")
        self._touched = time.monotonic()

    def _forget(self, count: int) -> None:
        self._have.clear()
        for index in range(count):
            self._path(index).unlink()

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.piece"

    def _write(self, index: int, data: bytes) -> None:
        """Whole or not at all."""
        partial = self._path(index).with_suffix(".part")
        try:
            partial.write_bytes(data)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(self._path(index))
