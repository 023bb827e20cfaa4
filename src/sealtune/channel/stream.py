"""The sealed format: a header, then chunks of AES-256-GCM, each in its place.

    header (156 bytes, little-endian) | chunk 0 | chunk 1 | ... | last chunk

    magic "STSS" | version u8 | flags u8 (0) | zero u16 | chunk size u32 | sequence u64 |
    round u64 | binding 48 | previous 48 | salt 32

`binding` is a digest of job, sender and receiver; `previous` chains to the message before. The key
of a stream is HKDF-SHA384(secret, salt, info = header), so every header field is authenticated by
every chunk, and a fresh salt gives a fresh key even if a process were cloned. A chunk's nonce is
its number and a flag on the last one (the STREAM construction of Hoang et al., CRYPTO 2015):
chunks can be neither reordered, dropped, repeated nor cut off at the end. All chunks but the last
hold exactly `chunk size` plaintext bytes; each grows by a 16-byte tag.

This module knows bytes only; who may say what to whom is in `sealtune.channel.sealed`.

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass
from io import BytesIO
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.errors import SealError

MAGIC = b"STSS"
VERSION = 1
LAYOUT = struct.Struct("<4sBBHIQQ48s48s32s")
HEADER_SIZE = LAYOUT.size
TAG = 16
SECRET_SIZE = 32
DIGEST_SIZE = 48
SALT_SIZE = 32
MIN_CHUNK = 1 << 12
MAX_CHUNK = 1 << 22
# 64 KiB would do for AES; 1 MiB also makes the cost of a Python call vanish, and fits into L2.
DEFAULT_CHUNK = 1 << 20
_NONCE = struct.Struct(">3xQB")

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Header:
    """The public part of a sealed message; true only once its chunks have opened.

    Attributes:
        chunk_size: plaintext bytes in all chunks but the last.
        sequence: number of the message in its direction, from 0.
        round: round of the job that the message belongs to.
        binding: 48 bytes, digest of job, sender and receiver.
        previous: 48 bytes, digest of the message before (zeros for the first).
        salt: 32 random bytes.
    """

    chunk_size: int
    sequence: int
    round: int
    binding: bytes
    previous: bytes
    salt: bytes

    def __post_init__(self) -> None:
        """Refuse what no message can have."""
        if not MIN_CHUNK <= self.chunk_size <= MAX_CHUNK:
            raise SealError(f"chunk size {self.chunk_size} is not in {MIN_CHUNK}..{MAX_CHUNK}")
        if not (0 <= self.round < 1 << 64 and 0 <= self.sequence < 1 << 64):
            raise SealError("round and sequence must fit into 64 bits")

    def pack(self) -> bytes:
        """The header's 156 bytes."""
        return LAYOUT.pack(MAGIC, VERSION, 0, 0, *astuple(self))

    @classmethod
    def unpack(cls, raw: Buffer) -> Header:
        """Parse 156 bytes.

        Raises:
            SealError: cut short, wrong magic or version, or a chunk size out of bounds.
        """
        if len(raw) < HEADER_SIZE:
            raise SealError(f"sealed message of {len(raw)} bytes is cut short")
        magic, version, flags, zero, *fields = LAYOUT.unpack_from(raw)
        if magic != MAGIC or flags or zero:
            raise SealError("not a sealed message: wrong magic, flags or reserved field")
        if version != VERSION:
            raise SealError(f"sealed message of version {version}, this is version {VERSION}")
        return cls(*fields)


def seal(secret: bytes, header: Header, plain: memoryview) -> tuple[bytes, bytes]:
    """Encrypt a message.

    Args:
        secret: 32 bytes.
        plain: a flat view of bytes.

    Returns:
        The sealed message, and 48 bytes that identify it: SHA-384 of header and all tags.
    """
    message = BytesIO(bytes(sealed_size(len(plain), header.chunk_size)))
    message.write(header.pack())
    boxes = _boxes(header, message.getbuffer())
    _each(_cipher(secret, header).encrypt_into, _pieces(plain, header.chunk_size), boxes)
    digest = _digest(header, boxes)
    del boxes  # without a view of it left, the buffer is given away uncopied
    return message.getvalue(), digest


def unseal(secret: bytes, header: Header, sealed: memoryview) -> tuple[bytes, bytes]:
    """Decrypt a message that starts with ``header``.

    Returns:
        The plaintext, and the message's digest as in ``seal``.

    Raises:
        SealError: altered, out of place, cut off, or something appended.
    """
    boxes = _boxes(header, sealed)
    if len(boxes[-1]) < TAG + (len(boxes) > 1):  # an empty chunk stands alone
        raise SealError("sealed message is cut short inside a chunk")
    plain = BytesIO(bytes(sum(len(box) - TAG for box in boxes)))
    chunks = _pieces(plain.getbuffer(), header.chunk_size)
    _each(_cipher(secret, header).decrypt_into, boxes, chunks)
    del chunks
    return plain.getvalue(), _digest(header, boxes)


def sealed_size(plain: int, chunk_size: int = DEFAULT_CHUNK) -> int:
    """Bytes of a sealed message with ``plain`` bytes of plaintext."""
    return HEADER_SIZE + plain + TAG * max(1, -(-plain // chunk_size))


def _cipher(secret: bytes, header: Header) -> AESGCM:
    if len(secret) != SECRET_SIZE:
        raise SealError(f"a stream secret has {SECRET_SIZE} bytes, not {len(secret)}")
    info = b"sealtune/stream/v1" + header.pack()
    return AESGCM(HKDF(SHA384(), 32, salt=header.salt, info=info).derive(secret))


def _pieces(data: memoryview, size: int) -> list[memoryview]:
    return [data[start : start + size] for start in range(0, max(1, len(data)), size)]


def _each(work: Callable[..., int], sources: list[memoryview], targets: list[memoryview]) -> None:
    """Encrypt or decrypt each piece, in its place, into the buffer for it."""
    for number, (source, target) in enumerate(zip(sources, targets, strict=True)):
        try:
            work(_NONCE.pack(number, number == len(sources) - 1), source, None, target)
        except InvalidTag as error:
            raise SealError(
                f"chunk {number} of the sealed message was altered, moved or cut off"
            ) from error


def _boxes(header: Header, sealed: memoryview) -> list[memoryview]:
    return _pieces(sealed[HEADER_SIZE:], header.chunk_size + TAG)


def _digest(header: Header, boxes: list[memoryview]) -> bytes:
    return hashlib.sha384(header.pack() + b"".join(box[-TAG:] for box in boxes)).digest()
