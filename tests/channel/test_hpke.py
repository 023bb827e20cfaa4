"""Key release: opens for one key, job, evidence and purpose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.channel.hpke import (
    ENCAPSULATED,
    MAX_SECRET,
    MLKEM_PUBLIC,
    PUBLIC_SIZE,
    TAG,
    KeyPair,
    seal_key,
)
from sealtune.errors import KeyReleaseError

PAIR = KeyPair.generate()
CONTEXT = {"job_id": b"j" * 48, "report_data": b"r" * 64, "purpose": "data-key"}


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=MAX_SECRET))
def test_round_trip(secret: bytes) -> None:
    box = seal_key(PAIR.public_bytes, secret, **CONTEXT)
    assert len(box) == ENCAPSULATED + len(secret) + TAG
    assert PAIR.open(box, **CONTEXT) == secret


@pytest.mark.parametrize(
    "change",
    [{"job_id": b"k" * 48}, {"report_data": b"s" * 64}, {"purpose": "update-key"}],
)
def test_bound_to_its_context(change: dict[str, object]) -> None:
    box = seal_key(PAIR.public_bytes, b"secret", **CONTEXT)
    with pytest.raises(KeyReleaseError):
        PAIR.open(box, **{**CONTEXT, **change})


def test_context_has_no_seams() -> None:
    """Moving a byte from one field of the context to the next makes another context."""
    box = seal_key(PAIR.public_bytes, b"secret", job_id=b"ab", report_data=b"c", purpose="p")
    with pytest.raises(KeyReleaseError):
        PAIR.open(box, job_id=b"a", report_data=b"bc", purpose="p")


def test_another_key_pair_cannot_open() -> None:
    box = seal_key(PAIR.public_bytes, b"secret", **CONTEXT)
    with pytest.raises(KeyReleaseError):
        KeyPair.generate().open(box, **CONTEXT)


@pytest.mark.parametrize("part", ["mlkem", "x25519"])
def test_both_halves_of_the_hybrid_count(part: str) -> None:
    other = KeyPair.generate().public_bytes
    mixed = (
        other[:MLKEM_PUBLIC] + PAIR.public_bytes[MLKEM_PUBLIC:]
        if part == "mlkem"
        else PAIR.public_bytes[:MLKEM_PUBLIC] + other[MLKEM_PUBLIC:]
    )
    with pytest.raises(KeyReleaseError):
        PAIR.open(seal_key(mixed, b"secret", **CONTEXT), **CONTEXT)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8 * (ENCAPSULATED + 6 + TAG) - 1))
def test_bit_flips(bit: int) -> None:
    box = bytearray(seal_key(PAIR.public_bytes, b"secret", **CONTEXT))
    box[bit // 8] ^= 1 << bit % 8
    with pytest.raises(KeyReleaseError):
        PAIR.open(bytes(box), **CONTEXT)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        bytes(PUBLIC_SIZE - 1),
        bytes(PUBLIC_SIZE + 1),
        bytes(PUBLIC_SIZE),  # X25519 point of low order
        b"\xff" * PUBLIC_SIZE,  # ML-KEM coefficients out of range
    ],
)
def test_unusable_public_keys(key: bytes) -> None:
    with pytest.raises(KeyReleaseError):
        seal_key(key, b"secret", **CONTEXT)


@pytest.mark.parametrize("size", [0, PUBLIC_SIZE - 1, PUBLIC_SIZE + 1])
def test_a_public_key_of_another_size(size: int) -> None:
    with pytest.raises(KeyReleaseError, match=f"public key of {size} bytes, not 1216"):
        seal_key(bytes(size), b"secret", **CONTEXT)


def test_the_longest_secret_and_the_sizes_of_the_suite() -> None:
    """FIPS 203: 1184 and 1088 bytes; RFC 7748: 32; an AES-GCM tag: 16."""
    secret = bytes(range(256)) * 4
    box = seal_key(PAIR.public_bytes, secret, **CONTEXT)
    assert PAIR.open(box, **CONTEXT) == secret
    assert len(box) == ENCAPSULATED + MAX_SECRET + TAG == 1088 + 32 + 1024 + 16
    assert len(PAIR.public_bytes) == PUBLIC_SIZE == MLKEM_PUBLIC + 32 == 1184 + 32


def test_sizes() -> None:
    with pytest.raises(KeyReleaseError):
        seal_key(PAIR.public_bytes, bytes(MAX_SECRET + 1), **CONTEXT)
    for size in (0, ENCAPSULATED + TAG - 1, ENCAPSULATED + TAG + MAX_SECRET + 1, 1 << 20):
        with pytest.raises(KeyReleaseError, match="cannot have"):
            PAIR.open(bytes(size), **CONTEXT)


def test_a_stored_pair_is_the_same_pair() -> None:
    again = KeyPair.from_private(PAIR.private())
    assert again.public_bytes == PAIR.public_bytes
    assert again.open(seal_key(PAIR.public_bytes, b"s", **CONTEXT), **CONTEXT) == b"s"


@pytest.mark.parametrize("size", [0, 95, 97])
def test_no_private_key_of_another_size(size: int) -> None:
    with pytest.raises(KeyReleaseError, match=f"private key of {size} bytes"):
        KeyPair.from_private(bytes(size))
