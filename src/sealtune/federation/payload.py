"""How sealtune's bytes travel in Flower messages: one frame in one uint8 array.

A Flower message of ours holds a single ``ArrayRecord`` with a single array: dtype ``uint8``, shape
``(n,)``, serialisation type ``sealed.bytes``, whose data are the ``n`` bytes of one
``sealtune.frames`` frame. Flower cuts arrays into pieces of 5 MiB by itself; bytes in a
``ConfigRecord`` would travel as one object and cost several times the time and memory. Everything
sits in one array, control fields included, because each record is one more object to move.

What the frames say (``op`` is the frame's kind; the body is a piece of a sealed message):

    put      server -> client  {"exchange", "index", "count"}  piece ``index`` of ``count``
    stored   client -> server  {"exchange"}                    kept, more pieces are missing
    reply    client -> server  {"exchange", "index", "count"}  piece ``index`` of the answer
    get      server -> client  {"exchange", "index"}           give me piece ``index`` of the answer
    failed   client -> server  {"exchange", "message"}         the enclave or its node could not

Trust domain: network engine (untrusted): nothing here is secret, and nothing is trusted.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, RecordDict

from sealtune.errors import FrameError
from sealtune.frames import Frame, decode, encode, is_count

MESSAGE_TYPE = "query.sealed"
PIECE = 32 << 20  # bytes of sealed message in one Flower message; larger ones travel in pieces

_RECORD, _KEY, _DTYPE, _STYPE = "sealed", "0", "uint8", "sealed.bytes"


def pack(frame: Frame) -> RecordDict:
    """The content of a Flower message that carries ``frame``."""
    data = encode(frame)
    array = Array(dtype=_DTYPE, shape=(len(data),), stype=_STYPE, data=data)
    return RecordDict({_RECORD: ArrayRecord({_KEY: array})})


def unpack(content: RecordDict) -> Frame:
    """The frame in the content of a Flower message.

    Raises:
        FrameError: the content is not exactly what ``pack`` makes.
    """
    if list(content) != [_RECORD] or list(content.array_records) != [_RECORD]:
        raise FrameError("a Flower message should hold one record of sealed bytes")
    record = content.array_records[_RECORD]
    if list(record) != [_KEY]:
        raise FrameError("the record of sealed bytes should hold one array")
    array = record[_KEY]
    if (array.dtype, array.stype, array.shape) != (_DTYPE, _STYPE, (len(array.data),)):
        raise FrameError("the array does not hold sealed bytes")
    return decode(array.data, max_body=PIECE)  # more in one message breaks the protocol


def pieces(size: int) -> int:
    """How many messages a sealed message of ``size`` bytes needs (one for an empty one)."""
    return max(1, -(-size // PIECE))


def piece(body: bytes | memoryview, index: int) -> bytes:
    """Piece ``index`` of ``body``."""
    return bytes(memoryview(body)[index * PIECE : (index + 1) * PIECE])


def integer(frame: Frame, key: str) -> int:
    """A non-negative integer field of a frame that came through the network.

    Raises:
        FrameError: the field is missing, no integer, or negative.
    """
    value = frame.meta.get(key)
    if not is_count(value):
        raise FrameError(f"{frame.kind}: field {key} should be a count")
    return value


def text(frame: Frame, key: str, *, limit: int = 2000) -> str:
    """A text field of a frame that came through the network: printable, at most ``limit`` long.

    Raises:
        FrameError: the field is missing or no text.
    """
    value = frame.meta.get(key)
    if not isinstance(value, str):
        raise FrameError(f"{frame.kind}: field {key} should be text")
    # It ends in logs and on terminals: no control characters, no endless lines.
    return "".join(c if c.isprintable() else " " for c in value[:limit])
