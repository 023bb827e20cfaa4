"""Envelopes: nothing in one can be changed without notice, and nothing odd is read."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import (
    MalformedManifestError,
    ManifestError,
    SealtuneError,
    SignatureMissingError,
    SignatureWrongError,
    UnknownKeyError,
)
from sealtune.job import dsse
from sealtune.job.dsse import Envelope, Signature, pae, verify, verify_present
from sealtune.job.keys import fingerprint
from sealtune.job.proposal import sign
from tests.job.sample import KEYS

PUBLIC = {org: key.public_key() for org, key in KEYS.items()}
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
PLAIN = Envelope("text/plain", b"the payload")
SIGNED = sign(sign(PLAIN, KEYS["clinic"]), KEYS["lab"])


def test_pae_of_the_specification() -> None:
    """The example of protocol.md, and lengths in bytes."""
    found = pae("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_signed_by_all() -> None:
    verify(SIGNED, PUBLIC)
    assert verify_present(SIGNED, PUBLIC) == ("clinic", "lab")
    assert Envelope.decode(SIGNED.encode()) == SIGNED


def test_a_second_signature_by_the_same_key_replaces_the_first() -> None:
    assert len(sign(SIGNED, KEYS["lab"]).signatures) == 2


@pytest.mark.parametrize("missing", ["clinic", "lab"])
def test_a_missing_signature(missing: str) -> None:
    (other,) = set(KEYS) - {missing}
    with pytest.raises(SignatureMissingError, match=f"not signed by {missing}\n"):
        verify(sign(PLAIN, KEYS[other]), PUBLIC)
    assert verify_present(sign(PLAIN, KEYS[other]), PUBLIC) == (other,)


def test_nobody_signed_and_nobody_need_sign() -> None:
    with pytest.raises(SignatureMissingError, match="clinic, lab"):
        verify(PLAIN, PUBLIC)
    with pytest.raises(SignatureMissingError):
        verify(PLAIN, {})


def test_a_stranger_signed_too() -> None:
    with pytest.raises(UnknownKeyError, match="no participant's"):
        verify(sign(SIGNED, STRANGER), PUBLIC)


def test_a_signature_under_another_name() -> None:
    forged = Signature(fingerprint(PUBLIC["lab"]), STRANGER.sign(pae("text/plain", PLAIN.payload)))
    with pytest.raises(SignatureWrongError, match="'lab' is wrong"):
        verify(replace(SIGNED, signatures=(SIGNED.signatures[0], forged)), PUBLIC)


def test_two_signatures_by_one_key() -> None:
    with pytest.raises(SignatureWrongError, match="two signatures"):
        verify(replace(SIGNED, signatures=SIGNED.signatures * 2), PUBLIC)


def test_another_type_of_payload() -> None:
    with pytest.raises(SignatureWrongError):
        verify(replace(SIGNED, payload_type="text/html"), PUBLIC)


def test_bytes_moved_between_type_and_payload() -> None:
    moved = replace(SIGNED, payload_type="text/plain 11 the", payload=b"payload")
    with pytest.raises(SignatureWrongError):
        verify(moved, PUBLIC)


@pytest.mark.parametrize("position", range(len(PLAIN.payload)))
def test_any_byte_of_the_payload(position: int) -> None:
    for value in range(256):
        payload = bytearray(PLAIN.payload)
        if payload[position] != value:
            payload[position] = value
            with pytest.raises(SignatureWrongError):
                verify(replace(SIGNED, payload=bytes(payload)), PUBLIC)


@settings(deadline=None, max_examples=500)
@given(st.integers(0, 1), st.integers(0, 63), st.integers(1, 255))
def test_any_byte_of_a_signature(which: int, position: int, difference: int) -> None:
    signatures = list(SIGNED.signatures)
    changed = bytearray(signatures[which].sig)
    changed[position] ^= difference
    signatures[which] = replace(signatures[which], sig=bytes(changed))
    with pytest.raises(SignatureWrongError):
        verify(replace(SIGNED, signatures=tuple(signatures)), PUBLIC)


@settings(deadline=None, max_examples=1500)
@given(st.integers(0, len(SIGNED.encode()) - 2), st.integers(1, 255))
def test_any_byte_of_the_file(position: int, difference: int) -> None:
    """Base64 and hex too: no second spelling of the same bytes is read."""
    data = bytearray(SIGNED.encode())
    data[position] ^= difference
    with pytest.raises(ManifestError):
        verify(Envelope.decode(bytes(data)), PUBLIC)


def changed(**fields: Any) -> bytes:
    return json.dumps(SIGNED.to_object() | fields).encode()


GOOD = SIGNED.to_object()["signatures"][0]
OTHER_BASE64 = base64.b64encode(b"a").decode().replace("YQ==", "YR==")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"[" * 100_000,
        b"\xff\xfe",
        b"1" * 10_000,
        b'{"payload":"","payload":"","payloadType":"","signatures":[]}',
        changed(extra=1),
        changed(payload=None),
        changed(payload="a"),
        changed(payload="a\n"),
        changed(payload="YQ=="[:-2]),
        changed(payload=OTHER_BASE64),
        changed(payload="-_8="),
        changed(payload="é"),
        changed(payloadType=1),
        changed(payloadType="é"),
        changed(payloadType="x" * 201),
        changed(signatures=None),
        changed(signatures=[None]),
        changed(signatures=[GOOD | {"more": 1}]),
        changed(signatures=[GOOD | {"keyid": 1}]),
        changed(signatures=[GOOD | {"keyid": "AB" * 32}]),
        changed(signatures=[GOOD | {"sig": "YQ=="}]),
        changed(signatures=[GOOD | {"sig": GOOD["sig"] * 9}]),
        changed(signatures=[GOOD] * 65),
        SIGNED.encode() + b"{}",
        b" " * (dsse.MAX_ENVELOPE + 1),
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    with pytest.raises(MalformedManifestError):
        Envelope.decode(data)


def test_a_payload_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsse, "MAX_PAYLOAD", 8)
    with pytest.raises(MalformedManifestError, match="at most 8 bytes"):
        Envelope.decode(changed(payload="QUFB" * 8))


@settings(deadline=None, max_examples=2000)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda payload, kind, signatures: json.dumps(
                {"payload": payload, "payloadType": kind, "signatures": signatures}
            ).encode(),
            st.one_of(st.text(), st.binary().map(lambda b: base64.b64encode(b).decode())),
            st.text(),
            st.lists(
                st.one_of(
                    st.just(GOOD),
                    st.dictionaries(
                        st.sampled_from(["keyid", "sig", "x"]),
                        st.one_of(st.text(), st.just(GOOD["sig"]), st.just(GOOD["keyid"])),
                    ),
                )
            ),
        ),
    )
)
def test_any_bytes_raise_our_errors_only(data: bytes) -> None:
    try:
        verify(Envelope.decode(data), PUBLIC)
    except SealtuneError:
        return
    raise AssertionError("unsigned bytes were accepted")


def test_a_signature_of_fixed_bytes() -> None:
    """Ed25519 is deterministic (RFC 8032), so a signed envelope is one byte string."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    envelope = sign(Envelope("application/vnd.sealtune.job+json", b'{"a":1}'), key)
    (signature,) = envelope.signatures
    message = b'DSSEv1 33 application/vnd.sealtune.job+json 7 {"a":1}'
    key.public_key().verify(signature.sig, message)
    assert signature.keyid == hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()
    assert hashlib.sha256(envelope.encode()).hexdigest() == (
        "3bf95041a6b58ce8f80978ae3fc1b19cce4dcf500c1ff1008e545d8a83b366f7"
    )
