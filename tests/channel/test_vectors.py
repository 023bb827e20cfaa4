"""Pinned bytes of what travels, each worked out a second time from the primitives alone.

Sources: RFC 9180 (HPKE) with the KEM X-Wing (draft-connolly-cfrg-xwing-kem: SHA3-256 over both
shared secrets, the X25519 share and key, and a label), RFC 5869 (HKDF), the construction of STREAM
(Hoang, Reyhanitabar, Rogaway, Vizár 2015) over AES-256-GCM. The bytes in ``vectors.json`` were made
by this version; keys and nonces in it follow from SHAKE-128 of the names below.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealtune import frames
from sealtune.attest.platforms.simulated import (
    SimulatedAttester,
    SimulatedVerifier,
    simulated_policy,
)
from sealtune.channel import handshake, sealed, stream
from sealtune.channel.client import ClientHandshake
from sealtune.channel.handshake import Established
from sealtune.channel.hpke import KeyPair, seal_key
from sealtune.channel.sealed import SealedSession
from sealtune.channel.server import ServerHandshake

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text())
JOB = bytes(range(48))
SITE = "clinic-a"
CODE = b"\x11" * 48
AT = datetime(2026, 1, 1, tzinfo=UTC)
MLKEM_CIPHERTEXT, X25519_SHARE = 1088, 32


def drawn(name: str, size: int) -> bytes:
    """Bytes that stand for random ones."""
    return hashlib.shake_128(f"sealtune test vector {name}".encode()).digest(size)


def key_pair(name: str) -> KeyPair:
    return KeyPair(*private_keys(name))


def private_keys(name: str) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    seed = drawn(name, 96)
    lattice = MLKEM768PrivateKey.from_seed_bytes(seed[:64])
    return lattice, X25519PrivateKey.from_private_bytes(seed[64:])


def prefixed(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def extract(salt: bytes, secret: bytes, kind: str) -> bytes:
    """HKDF-Extract, RFC 5869, section 2.2."""
    return hmac.digest(salt or bytes(hashlib.new(kind).digest_size), secret, kind)


def expand(key: bytes, info: bytes, size: int, kind: str) -> bytes:
    """HKDF-Expand, RFC 5869, section 2.3."""
    out, block = b"", b""
    for number in count(1):
        if len(out) >= size:
            return out[:size]
        block = hmac.digest(key, block + info + bytes([number]), kind)
        out += block
    raise AssertionError


# ---- HPKE ----------------------------------------------------------------------------------------


def hpke_open(name: str, box: bytes, info: bytes) -> bytes:
    """RFC 9180, base mode: KEM 0x647a (X-Wing), HKDF-SHA256, AES-256-GCM."""
    lattice, curve = private_keys(name)
    cipher, share = box[:MLKEM_CIPHERTEXT], box[MLKEM_CIPHERTEXT : MLKEM_CIPHERTEXT + X25519_SHARE]
    both = lattice.decapsulate(cipher) + curve.exchange(X25519PublicKey.from_public_bytes(share))
    own = curve.public_key().public_bytes_raw()
    shared = hashlib.sha3_256(both + share + own + rb"\.//^\ "[:6]).digest()
    suite = b"HPKE" + struct.pack(">HHH", 0x647A, 0x0001, 0x0002)

    def labeled_extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
        return extract(salt, b"HPKE-v1" + suite + label + secret, "sha256")

    def labeled_expand(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
        labeled = struct.pack(">H", size) + b"HPKE-v1" + suite + label + context
        return expand(key, labeled, size, "sha256")

    context = b"\0" + labeled_extract(b"", b"psk_id_hash", b"")
    context += labeled_extract(b"", b"info_hash", info)
    secret = labeled_extract(shared, b"secret", b"")
    key = labeled_expand(secret, b"key", context, 32)
    nonce = labeled_expand(secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, box[MLKEM_CIPHERTEXT + X25519_SHARE :], b"")


def hpke_info(report_data: bytes, purpose: str) -> bytes:
    context = prefixed(b"sealtune/hpke/v1", JOB, report_data, purpose.encode())
    return hashlib.sha384(context).digest()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_sealed_key(fresh: bool) -> None:
    bound, secret = bytes(range(64)), bytes(range(32))
    context: dict[str, Any] = {"job_id": JOB, "report_data": bound, "purpose": "server-share"}
    pair = key_pair("receiver")
    box = bytes.fromhex(VECTORS["hpke"])
    if fresh:
        box = seal_key(pair.public_bytes, secret, **context)
    assert pair.open(box, **context) == secret
    assert hpke_open("receiver", box, hpke_info(bound, "server-share")) == secret


# ---- STREAM --------------------------------------------------------------------------------------


def stream_open(secret: bytes, message: bytes, size: int) -> bytes:
    header, body = message[: stream.HEADER_SIZE], message[stream.HEADER_SIZE :]
    salt = header[-32:]
    key = expand(extract(salt, secret, "sha384"), b"sealtune/stream/v1" + header, 32, "sha384")
    plain = b""
    starts = range(0, len(body), size + 16)
    for number, start in enumerate(starts):
        nonce = bytes(3) + struct.pack(">Q", number) + bytes([number == len(starts) - 1])
        plain += AESGCM(key).decrypt(nonce, body[start : start + size + 16], None)
    return plain


def session(mode: Any, **options: Any) -> SealedSession:
    names = {"job_id": JOB, "sender": "server", "receiver": "client:clinic-a"}
    return SealedSession(drawn("secret", 32), mode=mode, **names, **options)


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 10_000])
def test_a_sealed_message(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(sealed.secrets, "token_bytes", lambda size: drawn("salt", size))
    plain = drawn("plaintext", length)
    message = session("seal", chunk_size=4096).seal(plain, 7)
    assert hashlib.sha256(message).hexdigest() == VECTORS["stream"][str(length)]
    assert stream_open(drawn("secret", 32), message, 4096) == plain
    assert session("open").open(message, 7) == plain


# ---- handshake -----------------------------------------------------------------------------------


def run_handshake(monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], Established, Established]:
    """All four messages with fixed nonces, keys and halves; sealed halves are those recorded."""
    names = iter(["nonce server", "nonce client", "half server", "half client"])
    pairs = iter(["pair client", "pair server"])
    boxes = iter(VECTORS["handshake"]["sealed"])
    monkeypatch.setattr(
        handshake.secrets, "token_bytes", lambda size: drawn(next(names, "salt"), size)
    )
    monkeypatch.setattr(KeyPair, "generate", classmethod(lambda cls: key_pair(next(pairs))))
    for side in ("client", "server"):
        module = f"sealtune.channel.{side}"
        monkeypatch.setattr(f"{module}.seal_key", lambda *_a, **_k: bytes.fromhex(next(boxes)))
    key = Ed25519PrivateKey.from_private_bytes(drawn("development key", 32))
    attester = SimulatedAttester(key, measurement=CODE)
    verifier = SimulatedVerifier((key.public_key().public_bytes_raw(),))
    parts = (JOB, SITE, attester, verifier, simulated_policy(CODE))
    server = ServerHandshake(*parts, clock=lambda: AT)
    client = ClientHandshake(*parts, clock=lambda: AT)
    messages = [server.challenge()]
    messages.append(client.on_challenge(messages[-1]))
    messages.append(server.on_hello(messages[-1]))
    last, at_client = client.on_server_hello(messages[-1])
    messages.append(last)
    return messages, server.on_client_key(last), at_client


def report_data(role: str, peer: str, nonce: bytes, key: bytes, said: list[bytes]) -> bytes:
    context = hashlib.sha384(prefixed(peer.encode(), *said)).digest()
    fields = (b"sealtune/attest/v2", role.encode(), nonce, JOB, key, context, b"")
    return hashlib.sha512(prefixed(*fields)).digest()


def meta(message: bytes, name: str) -> bytes:
    return bytes.fromhex(frames.decode(message).meta[name])


def test_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    messages, at_server, at_client = run_handshake(monkeypatch)
    assert [hashlib.sha256(m).hexdigest() for m in messages] == VECTORS["handshake"]["messages"]
    challenge, hello, reply, last = messages
    role = f"client:{SITE}"
    client_data = report_data(
        role, "server", drawn("nonce server", 32), meta(hello, "public_key"), [challenge]
    )
    server_data = report_data(
        "server", role, drawn("nonce client", 32), meta(reply, "public_key"), [challenge, hello]
    )
    assert client_data in frames.decode(hello).body
    assert server_data in frames.decode(reply).body
    halves = [
        hpke_open("pair client", meta(reply, "sealed_key"), hpke_info(client_data, "server-share")),
        hpke_open("pair server", meta(last, "sealed_key"), hpke_info(server_data, "client-share")),
    ]
    assert halves == [drawn("half server", 32), drawn("half client", 32)]
    transcript = hashlib.sha384(
        prefixed(challenge, hello, reply, meta(last, "sealed_key"))
    ).digest()
    info = prefixed(b"sealtune/channel/v2", JOB, SITE.encode())
    keys = expand(extract(transcript, b"".join(halves), "sha384"), info, 96, "sha384")
    assert meta(last, "confirmation") == hmac.digest(keys[64:], transcript, "sha384")
    assert at_server.transcript == at_client.transcript == transcript
    down, up = (side.outgoing.seal(b"hello", 1) for side in (at_server, at_client))
    size = stream.DEFAULT_CHUNK
    assert stream_open(keys[:32], down, size) == stream_open(keys[32:64], up, size) == b"hello"
