"""Length-checked frames: the one wire format between all of sealtune's processes.

A frame is a fixed 20-byte header, a small JSON object (``meta``) and raw bytes (``body``):

    magic "STF1" | meta length u32 | body length u64 | reserved u32 (zero) | meta | body

All integers are little-endian. Both lengths are checked against limits before a byte is
allocated. Frames carry no authenticity of their own: what must be secret or genuine is sealed
before it is put into a body (see ``sealtune.channel``).
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from sealtune.errors import FrameError

MAGIC = b"STF1"
HEADER = struct.Struct("<4sIQI")
MAX_META = 1 << 20  # bytes; job and plan fit with room to spare
_PIECE = 1 << 24
_TOGETHER = 1 << 16  # bytes of a body that go out with the head
MAX_BODY = 1 << 32  # bytes; callers pass their own, smaller limit where they know one


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        kind: what the message is, for dispatch.
        meta: small JSON-able fields.
        body: raw bytes (empty, or any bytes-like object when sending).
    """

    kind: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | bytearray | memoryview = b""


def is_count(value: object) -> TypeGuard[int]:
    """Whether a field of ``meta`` is a whole number from 0 on; in Python, bool is an int, too."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def length_prefixed(*parts: bytes) -> bytes:
    """Concatenation that can be taken apart in one way only: each part after its u32 length."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def encode_head(frame: Frame, size: int | None = None) -> bytes:
    """Header and meta of ``frame``; the body follows as it is, or ``size`` bytes in its place."""
    meta = json.dumps({"kind": frame.kind, **frame.meta}, separators=(",", ":")).encode()
    if len(meta) > MAX_META:
        raise FrameError(f"frame meta is {len(meta)} bytes, more than the {MAX_META} allowed")
    body = memoryview(frame.body).nbytes if size is None else size
    return HEADER.pack(MAGIC, len(meta), body, 0) + meta


def encode(frame: Frame) -> bytes:
    """The whole frame as bytes."""
    return encode_head(frame) + bytes(frame.body)


def parse_header(header: bytes, *, max_body: int = MAX_BODY) -> tuple[int, int]:
    """Check a 20-byte header and return ``(meta length, body length)`` in bytes."""
    if len(header) != HEADER.size:
        raise FrameError(f"frame header is {len(header)} bytes, not {HEADER.size}")
    magic, meta_len, body_len, reserved = HEADER.unpack(header)
    if magic != MAGIC or reserved != 0:
        raise FrameError("not a sealtune frame: wrong magic or reserved field")
    if meta_len > MAX_META:
        raise FrameError(f"frame announces {meta_len} bytes of meta, limit {MAX_META}")
    if body_len > max_body:
        raise FrameError(f"frame announces {body_len} bytes of body, limit {max_body}")
    return meta_len, body_len


def parse_meta(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Parse the JSON meta and return ``(kind, remaining fields)``."""
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FrameError("frame meta is not JSON") from error
    if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str):
        raise FrameError("frame meta lacks its kind")
    kind = meta.pop("kind")
    return kind, meta


def decode(data: bytes | memoryview, *, max_body: int = MAX_BODY) -> Frame:
    """Parse exactly one frame; trailing bytes are refused."""
    view = memoryview(data)
    meta_len, body_len = parse_header(bytes(view[: HEADER.size]), max_body=max_body)
    if view.nbytes != HEADER.size + meta_len + body_len:
        raise FrameError(
            f"frame of {view.nbytes} bytes should have {HEADER.size + meta_len + body_len}"
        )
    start = HEADER.size + meta_len
    kind, meta = parse_meta(bytes(view[HEADER.size : start]))
    return Frame(kind, meta, bytes(view[start:]))


def send(sock: socket.socket, frame: Frame) -> None:
    """Write ``frame`` to a stream socket."""
    send_after(sock, encode_head(frame), frame.body)


def send_after(sock: socket.socket, head: bytes, body: bytes | bytearray | memoryview) -> None:
    """Write a head, and behind it a body or the begin of one."""
    if memoryview(body).nbytes <= _TOGETHER:
        sock.sendall(head + body)
    else:
        sock.sendall(head)
        sock.sendall(body)


def receive(sock: socket.socket, *, max_body: int = MAX_BODY) -> Frame:
    """Read one frame from a stream socket.

    Raises:
        FrameError: malformed or oversize frame, or the connection ended inside one.
        EOFError: the peer closed the connection between two frames.
    """
    head, size = receive_head(sock, max_body=max_body)
    return Frame(head.kind, head.meta, _read(sock, size))


def receive_head(sock: socket.socket, *, max_body: int = MAX_BODY) -> tuple[Frame, int]:
    """Read a frame's header and meta; the body of that many bytes is still to be read.

    Raises:
        FrameError: as ``receive``.
        EOFError: as ``receive``.
    """
    first = sock.recv(HEADER.size)
    if not first:
        raise EOFError("connection closed")
    header = first + _read(sock, HEADER.size - len(first))
    meta_len, body_len = parse_header(header, max_body=max_body)
    kind, meta = parse_meta(_read(sock, meta_len))
    return Frame(kind, meta), body_len


def read_into(sock: socket.socket, buffer: memoryview) -> None:
    """Fill ``buffer``, contiguous bytes, with what comes next.

    Raises:
        FrameError: the connection ended first.
    """
    done = 0
    while done < buffer.nbytes:
        got = sock.recv_into(buffer[done:])
        if got == 0:
            raise FrameError(
                f"connection closed inside a frame, {buffer.nbytes - done} bytes short"
            )
        done += got


def _read(sock: socket.socket, count: int) -> bytes:
    # In pieces: an announced length alone makes nobody allocate gigabytes.
    buffer = bytearray(min(count, _PIECE))
    done = 0
    while done < count:
        if done == len(buffer):
            buffer.extend(bytes(min(_PIECE, count - done)))
        with memoryview(buffer) as view:
            got = sock.recv_into(view[done:])
        if got == 0:
            raise FrameError(f"connection closed inside a frame, {count - done} bytes short")
        done += got
    return bytes(buffer)
