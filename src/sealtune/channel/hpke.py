"""Sealing a short secret to a public key: hybrid HPKE (RFC 9180, base mode).

Suite: ML-KEM-768 + X25519, HKDF-SHA256, AES-256-GCM, all from `cryptography`. A secret stays safe
while either of the two key exchanges holds. Base mode proves nothing about the sender; who that is
follows from the attested handshake around it (`sealtune.channel.handshake`).

    pair = KeyPair.generate()
    box = seal_key(pair.public_bytes, secret, job_id=..., report_data=..., purpose="data-key")
    assert pair.open(box, job_id=..., report_data=..., purpose="data-key") == secret

Trust domain: every enclave, data owners who release keys, and pad accelerators.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from sealtune.errors import KeyReleaseError
from sealtune.frames import length_prefixed

MLKEM_PUBLIC = 1184  # bytes, FIPS 203
X25519_PUBLIC = 32
PUBLIC_SIZE = MLKEM_PUBLIC + X25519_PUBLIC
MLKEM_SEED = 64
PRIVATE_SIZE = MLKEM_SEED + 32
ENCAPSULATED = 1088 + 32  # ML-KEM ciphertext and X25519 share
TAG = 16
MAX_SECRET = 1024  # a key, not a payload

_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class KeyPair:
    """A key pair, never printed. Fresh in each handshake and never stored, but for that of a pad
    accelerator, whose public half the manifest names (``pad_key``).
    """

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._private = hpke.MLKEM768X25519PrivateKey(mlkem, x25519)
        self._raw = mlkem.private_bytes_raw() + x25519.private_bytes_raw()
        self.public_bytes: bytes = (
            mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        )

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair from the operating system's randomness."""
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_private(cls, raw: bytes) -> KeyPair:
        """The pair of ``private``.

        Raises:
            KeyReleaseError: not so many bytes.
        """
        if len(raw) != PRIVATE_SIZE:
            raise KeyReleaseError(f"private key of {len(raw)} bytes, not {PRIVATE_SIZE}")
        mlkem = MLKEM768PrivateKey.from_seed_bytes(raw[:MLKEM_SEED])
        return cls(mlkem, X25519PrivateKey.from_private_bytes(raw[MLKEM_SEED:]))

    def private(self) -> bytes:
        """ML-KEM seed (FIPS 203) and X25519 scalar: ``PRIVATE_SIZE`` secret bytes."""
        return self._raw

    def open(self, sealed: bytes, *, job_id: bytes, report_data: bytes, purpose: str) -> bytes:
        """The secret that `seal_key` sealed to this pair with the same context.

        Raises:
            KeyReleaseError: altered, or sealed to another key, job, evidence or purpose.
        """
        if not ENCAPSULATED + TAG <= len(sealed) <= ENCAPSULATED + TAG + MAX_SECRET:
            raise KeyReleaseError(f"a sealed key cannot have {len(sealed)} bytes")
        try:
            return _SUITE.decrypt(sealed, self._private, info=_info(job_id, report_data, purpose))
        except (InvalidTag, ValueError) as error:
            raise KeyReleaseError(
                f"sealed key for {purpose!r} does not open: it was altered, or sealed for another "
                "job, enclave or purpose"
            ) from error


def seal_key(
    public_key: bytes, secret: bytes, *, job_id: bytes, report_data: bytes, purpose: str
) -> bytes:
    """Seal a short secret to a public key, bound to a job, a piece of evidence and a purpose.

    Args:
        public_key: `KeyPair.public_bytes` of the receiver, taken from verified evidence only, or
            from a signed manifest.
        secret: at most `MAX_SECRET` bytes.
        job_id: SHA-384 of the job.
        report_data: the 64 bytes of the receiver's evidence; of a pad accelerator, which has none,
            its connection's fresh key.
        purpose: what the secret is for, such as "data-key"; it opens for no other.

    Raises:
        KeyReleaseError: not a public key of this suite, or the secret is too long.
    """
    if len(public_key) != PUBLIC_SIZE:
        raise KeyReleaseError(f"public key of {len(public_key)} bytes, not {PUBLIC_SIZE}")
    if len(secret) > MAX_SECRET:
        raise KeyReleaseError(f"secret of {len(secret)} bytes, limit {MAX_SECRET}")
    try:
        receiver = hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public_key[:MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(public_key[MLKEM_PUBLIC:]),
        )
        return _SUITE.encrypt(secret, receiver, info=_info(job_id, report_data, purpose))
    except ValueError as error:
        raise KeyReleaseError("not a usable public key") from error


def _info(job_id: bytes, report_data: bytes, purpose: str) -> bytes:
    context = length_prefixed(b"sealtune/hpke/v1", job_id, report_data, purpose.encode())
    return hashlib.sha384(context).digest()
