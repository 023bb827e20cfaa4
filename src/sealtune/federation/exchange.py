"""A node's part of an exchange: takes a message's pieces, asks the enclave, hands out the answer.

Trust domain: network engine (untrusted), on the data owner's side.
"""

from __future__ import annotations

import re

from sealtune.errors import FrameError, SealtuneError
from sealtune.federation.enclave_link import deliver
from sealtune.federation.payload import integer, piece, text
from sealtune.federation.spool import Spool
from sealtune.frames import Frame

_EXCHANGE = re.compile(r"[0-9a-f]{16}")


def handle(frame: Frame, enclave: str, spool: Spool, *, patience: float = 0.0) -> Frame:
    """Answer one frame from the relay. Never raises for what the network sent.

    Args:
        frame: ``put`` or ``get``, see ``payload``.
        enclave: address of the client enclave.
        spool: where pieces wait.
        patience: seconds that an enclave may need to be started again.
    """
    exchange = ""
    try:
        exchange = _exchange(frame)
        if frame.kind == "put":
            return _put(frame, exchange, enclave, spool, patience)
        if frame.kind == "get":
            index = integer(frame, "index")
            body, count = spool.get(exchange, index)
            return _reply(exchange, index, count, body)
        raise FrameError(f"unknown request {frame.kind[:40]!r}")
    except (SealtuneError, OSError) as error:
        message = error.message if isinstance(error, SealtuneError) else str(error)
        return failed(message, exchange)


def failed(message: str, exchange: str = "") -> Frame:
    """The answer that says why there is none."""
    return Frame("failed", {"exchange": exchange, "message": message[:2000]})


def _exchange(frame: Frame) -> str:
    exchange = text(frame, "exchange", limit=32)
    if not _EXCHANGE.fullmatch(exchange):
        raise FrameError("the exchange's name should be 16 hexadecimal digits")
    return exchange


def _put(frame: Frame, exchange: str, enclave: str, spool: Spool, patience: float) -> Frame:
    index, count = integer(frame, "index"), integer(frame, "count")
    message = spool.add(exchange, index, count, bytes(frame.body))
    if message is None:
        return Frame("stored", {"exchange": exchange})
    answer = deliver(enclave, message, patience=patience)
    return _reply(exchange, 0, spool.keep(exchange, answer), piece(answer, 0))


def _reply(exchange: str, index: int, count: int, body: bytes) -> Frame:
    return Frame("reply", {"exchange": exchange, "index": index, "count": count}, body)
