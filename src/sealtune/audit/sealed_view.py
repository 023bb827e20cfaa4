"""What somebody has of a sealed message who carries or stores it, and makes the most of it.

    by_force(seal(body))      # as long as ``body``: what stands at the places of its bytes

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import hashlib

from sealtune.channel import stream


def seal(body: bytes) -> bytes:
    """A message, sealed as every message of a job is; its salt follows from it: audits repeat."""
    secret, salt = (hashlib.sha256(name + body).digest() for name in (b"secret", b"salt"))
    header = stream.Header(stream.DEFAULT_CHUNK, 0, 0, bytes(48), bytes(stream.DIGEST_SIZE), salt)
    return stream.seal(secret, header, memoryview(body))[0]


def by_force(message: bytes) -> bytes:
    """The bytes at the places of a message's plaintext: header and tags left out."""
    boxes, size = memoryview(message)[stream.HEADER_SIZE :], stream.DEFAULT_CHUNK + stream.TAG
    pieces = [boxes[start : start + size] for start in range(0, len(boxes), size)]
    return b"".join(piece[: -stream.TAG] for piece in pieces)
