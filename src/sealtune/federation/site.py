"""A site's half of the glue: takes a message's pieces, asks the enclave, hands out the answer.

A Flower ClientApp lives for one message, so what must outlast it (pieces of a message that is not
complete, an answer of more than one piece) lies in the site's spool folder. It is all sealed, and
it is kept for one exchange: the first piece of another one clears it.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sealtune.errors import FrameError, SealtuneError
from sealtune.federation import payload
from sealtune.federation.enclave_link import deliver
from sealtune.federation.payload import integer, piece, pieces, text
from sealtune.frames import Frame

_MAX_PIECES = 4096  # 128 GiB; keeps a hostile count from filling the disk with bookkeeping
_EXCHANGE = re.compile(r"[0-9a-f]{16}")  # it becomes part of a file name: nothing else passes


def handle(frame: Frame, enclave: Path, spool: Path) -> Frame:
    """Answer one frame from the server's glue. Never raises for what the network sent.

    Args:
        frame: ``put`` or ``get``, see ``payload``.
        enclave: the client enclave's Unix socket.
        spool: a folder of this site's own.
    """
    exchange = ""
    try:
        exchange = _exchange(frame)
        if frame.kind == "put":
            return _put(frame, exchange, enclave, spool)
        if frame.kind == "get":
            return _get(frame, exchange, spool)
        raise FrameError(f"unknown request {frame.kind[:40]!r}")
    except (SealtuneError, OSError) as error:
        message = error.message if isinstance(error, SealtuneError) else str(error)
        return Frame("failed", {"exchange": exchange, "message": message})


def _exchange(frame: Frame) -> str:
    exchange = text(frame, "exchange", limit=32)
    if not _EXCHANGE.fullmatch(exchange):
        raise FrameError("the exchange's name should be 16 hexadecimal digits")
    return exchange


def _put(frame: Frame, exchange: str, enclave: Path, spool: Path) -> Frame:
    index, count = integer(frame, "index"), integer(frame, "count")
    if not index < count <= _MAX_PIECES:
        raise FrameError(f"piece {index} of {count} makes no sense")
    _forget_others(spool, exchange)
    if count == 1:
        body = bytes(frame.body)
    else:
        _write(spool / f"{exchange}.{index}", bytes(frame.body))
        parts = [spool / f"{exchange}.{i}" for i in range(count)]
        if not all(part.exists() for part in parts):
            return Frame("stored", {"exchange": exchange})
        body = b"".join(part.read_bytes() for part in parts)
        for part in parts:
            part.unlink()
    answer = deliver(enclave, body)
    total = pieces(len(answer))
    if total > 1:
        _write(spool / f"{exchange}.answer", answer)
    return _reply(exchange, 0, total, piece(answer, 0))


def _get(frame: Frame, exchange: str, spool: Path) -> Frame:
    index = integer(frame, "index")
    path = spool / f"{exchange}.answer"
    try:
        with path.open("rb") as stream:
            total = pieces(os.fstat(stream.fileno()).st_size)
            if index >= total:
                raise FrameError(f"the answer has {total} pieces, none with index {index}")
            stream.seek(index * payload.PIECE)
            return _reply(exchange, index, total, stream.read(payload.PIECE))
    except FileNotFoundError as error:
        raise FrameError("this site no longer holds that answer") from error


def _reply(exchange: str, index: int, count: int, body: bytes) -> Frame:
    return Frame("reply", {"exchange": exchange, "index": index, "count": count}, body)


def _forget_others(spool: Path, exchange: str) -> None:
    for path in spool.iterdir():
        owner = path.name.split(".")[0]
        if owner != exchange and _EXCHANGE.fullmatch(owner):
            path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a ClientApp may be killed at any moment."""
    partial = path.with_suffix(path.suffix + ".part")
    partial.write_bytes(data)
    partial.replace(path)
