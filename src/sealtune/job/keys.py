"""Public keys of participants: Ed25519, in manifests and signatures.

Trust domain: every process.
"""

from __future__ import annotations

import hashlib
import re

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealtune.errors import MalformedManifestError

_P = 2**255 - 19
# y coordinates of the eight points of small order: a key there signs everything for everybody.
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the 32 key bytes, 64 hex digits; also the ``keyid`` of its signatures."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def public_hex(key: Ed25519PublicKey) -> str:
    """The 32 key bytes as 64 hex digits."""
    return key.public_bytes_raw().hex()


def public_from_hex(digits: str) -> Ed25519PublicKey:
    """The key of ``public_hex``.

    Raises:
        MalformedManifestError: not 64 lower-case hex digits, not the one encoding of a point, or a
            point of small order, under which one signature is good for many messages.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise MalformedManifestError("an Ed25519 key is written in 64 lower-case hex digits")
    raw = bytes.fromhex(digits)
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P or y in SMALL_ORDER:
        raise MalformedManifestError("an Ed25519 key that no honest key generation makes")
    return Ed25519PublicKey.from_public_bytes(raw)
