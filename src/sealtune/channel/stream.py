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
from dataclasses import dataclass
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
        binding: 48 bytes, digest of job, sender and receiver.
        sequence: number of the message in its direction, from 0.
        round: round of the job that the message belongs to.
        previous: 48 bytes, digest of the message before (zeros for the first).
        salt: 32 random bytes.
        chunk_size: plaintext bytes in all chunks but the last.
    """

    binding: bytes
    sequence: int
    round: int
    previous: bytes
    salt: bytes
    chunk_size: int = DEFAULT_CHUNK

    def pack(self) -> bytes:
        """The header's 156 bytes."""
        if not MIN_CHUNK <= self.chunk_size <= MAX_CHUNK:
            raise SealError(f"chunk size {self.chunk_size} is not in {MIN_CHUNK}..{MAX_CHUNK}")
        if not (0 <= self.round < 1 << 64 and 0 <= self.sequence < 1 << 64):
            raise SealError("round and sequence must fit into 64 bits")
        return LAYOUT.pack(
            MAGIC,
            VERSION,
            0,
            0,
            self.chunk_size,
            self.sequence,
            self.round,
            self.binding,
            self.previous,
            self.salt,
        )

    @classmethod
    def unpack(cls, raw: Buffer) -> Header:
        """Parse 156 bytes.

        Raises:
            SealError: cut short, wrong magic or version, or a chunk size out of bounds.
        """
        if len(raw) < HEADER_SIZE:
            raise SealError(f"sealed message of {len(raw)} bytes is cut short")
        magic, version, flags, zero, chunk, sequence, round_, *rest = LAYOUT.unpack_from(raw)
        if magic != MAGIC or flags or zero:
            raise SealError("not a sealed message: wrong magic, flags or reserved field")
        if version != VERSION:
            raise SealError(f"sealed message of version {version}, this is version {VERSION}")
        if not MIN_CHUNK <= chunk <= MAX_CHUNK:
            raise SealError(f"chunk size {chunk} is not in {MIN_CHUNK}..{MAX_CHUNK}")
        binding, previous, salt = rest
        return cls(binding, sequence, round_, previous, salt, chunk)


class _Chunks:
    """State common to both directions: key, counter, running digest of header and tags."""

    def __init__(self, secret: bytes, header: Header) -> None:
        if len(secret) != SECRET_SIZE:
            raise SealError(f"a stream secret has {SECRET_SIZE} bytes, not {len(secret)}")
        packed = header.pack()
        info = b"sealtune/stream/v1" + packed
        key = HKDF(SHA384(), 32, salt=header.salt, info=info).derive(secret)
        self.header = header
        self.finished = False
        self._cipher = AESGCM(key)
        self._count = 0
        self._digest = hashlib.sha384(packed)

    @property
    def digest(self) -> bytes:
        """48 bytes that identify the whole message: header and all tags."""
        if not self.finished:
            raise SealError("the digest of a stream exists only after its last chunk")
        return self._digest.digest()

    def _nonce(self, plain: int, last: bool) -> bytes:
        if self.finished:
            raise SealError("a chunk follows the last one")
        if plain > self.header.chunk_size or (plain < self.header.chunk_size and not last):
            raise SealError(f"chunk of {plain} bytes in a stream of {self.header.chunk_size}")
        return _NONCE.pack(self._count, last)

    def _advance(self, tag: Buffer, last: bool) -> None:
        self._digest.update(tag)
        self._count += 1
        self.finished = last


class ChunkSealer(_Chunks):
    """Encrypts one stream, chunk by chunk, into buffers of the caller."""

    def seal_into(self, plain: Buffer, out: bytearray | memoryview, *, last: bool) -> int:
        """Encrypt one chunk.

        Args:
            plain: exactly `chunk_size` bytes, fewer only in the last chunk.
            out: exactly ``len(plain) + TAG`` writable bytes.
            last: whether this chunk ends the stream.

        Returns:
            Number of bytes written.
        """
        nonce = self._nonce(len(plain), last)
        written = self._cipher.encrypt_into(nonce, plain, None, out)
        self._advance(memoryview(out)[written - TAG : written], last)
        return written


class ChunkOpener(_Chunks):
    """Decrypts one stream, chunk by chunk, into buffers of the caller."""

    def open_into(self, sealed: Buffer, out: bytearray | memoryview, *, last: bool) -> int:
        """Decrypt one chunk.

        Args:
            sealed: the chunk with its tag.
            out: exactly ``len(sealed) - TAG`` writable bytes; undefined after an error.
            last: whether the stream ends here.

        Returns:
            Number of bytes written.

        Raises:
            SealError: altered, out of place, or not the end of the stream.
        """
        if len(sealed) < TAG:
            raise SealError("sealed message is cut short inside a chunk")
        nonce = self._nonce(len(sealed) - TAG, last)
        try:
            written = self._cipher.decrypt_into(nonce, sealed, None, out)
        except InvalidTag as error:
            raise SealError(
                f"chunk {self._count} of the sealed message was altered, moved or cut off"
            ) from error
        self._advance(memoryview(sealed)[-TAG:], last)
        return written


def sealed_size(plain: int, chunk_size: int = DEFAULT_CHUNK) -> int:
    """Bytes of a sealed message with ``plain`` bytes of plaintext."""
    return HEADER_SIZE + plain + TAG * max(1, -(-plain // chunk_size))


def plain_size(sealed: int, chunk_size: int) -> int:
    """Bytes of plaintext in a sealed message of ``sealed`` bytes.

    Raises:
        SealError: no message has that size.
    """
    body = sealed - HEADER_SIZE
    chunks = max(1, -(-body // (chunk_size + TAG)))
    plain = body - TAG * chunks
    if plain < 0 or sealed_size(plain, chunk_size) != sealed:
        raise SealError(f"sealed message of {sealed} bytes is cut short")
    return plain
