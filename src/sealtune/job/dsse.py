"""DSSE v1 envelopes: bytes, what kind they are of, and who signed them.

    {"payload": base64, "payloadType": text, "signatures": [{"keyid": hex, "sig": base64}, ...]}

A signature covers ``PAE(type, payload) = "DSSEv1 " len(type) " " type " " len(payload) " "
payload``, so a payload of one kind can not be passed off as another's. Source:
https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md

Stricter than the specification: unknown keys, URL-safe or sloppy base64, a second signature by one
key and signatures by strangers are refused, so that an envelope cannot be changed without notice.

Trust domain: every process; envelopes come from outside.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sealtune.errors import (
    MalformedManifestError,
    SignatureMissingError,
    SignatureWrongError,
    UnknownKeyError,
)
from sealtune.job.keys import fingerprint
from sealtune.job.storage import read_bounded

MAX_PAYLOAD = 8 << 20  # bytes; a manifest has some 100 KiB, most of it the slice plan
MAX_SIGNATURES = 64
MAX_ENVELOPE = MAX_PAYLOAD * 3 // 2
_SIGNATURE = 64  # bytes


@dataclass(frozen=True)
class Signature:
    """One signature: ``keyid`` is the key's fingerprint, ``sig`` has 64 bytes."""

    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """Signed bytes; nothing has been verified about them."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...] = ()

    def to_object(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "payload": _base64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": one.keyid, "sig": _base64(one.sig)} for one in self.signatures
            ],
        }

    def encode(self) -> bytes:
        """The file's bytes: canonical JSON and a line end."""
        return rfc8785.dumps(self.to_object()) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """The envelope in ``data``.

        Raises:
            MalformedManifestError: too long, not JSON, or not exactly such an object.
        """
        if len(data) > MAX_ENVELOPE:
            raise _malformed(f"is {len(data)} bytes long, at most {MAX_ENVELOPE} are allowed")
        try:
            content = json.loads(data, object_pairs_hook=_distinct)
        except (ValueError, RecursionError) as error:
            raise _malformed("is not JSON") from error
        fields = _fields(content, "payload", "payloadType", "signatures")
        kind, signatures = fields["payloadType"], fields["signatures"]
        if not isinstance(kind, str) or not kind.isascii() or len(kind) > 200:
            raise _malformed("its payloadType is not a short text")
        if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
            raise _malformed(f"its signatures are not a list of at most {MAX_SIGNATURES}")
        payload = _bytes(fields["payload"], "payload", MAX_PAYLOAD)
        return cls(kind, payload, tuple(_signature(one) for one in signatures))

    @classmethod
    def read(cls, path: Path, what: str = "manifest") -> Envelope:
        """The envelope in a file; ``what`` it should hold, in words.

        Raises:
            MalformedManifestError: unreadable, or no envelope.
        """

        def failure(words: str) -> MalformedManifestError:
            hint = "`sealtune job build JOB.toml -o job.manifest.json` writes one"
            hint = hint if what == "manifest" else ""
            return MalformedManifestError(f"the {what} {path} {words}", hint=hint)

        return cls.decode(read_bounded(path, MAX_ENVELOPE, failure))


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def verify_present(envelope: Envelope, keys: Mapping[str, Ed25519PublicKey]) -> tuple[str, ...]:
    """Verify the signatures that are there.

    Args:
        envelope: from outside.
        keys: name -> key of everybody who may sign.

    Returns:
        names of those who signed, in the order of ``keys``.

    Raises:
        UnknownKeyError: a signature by somebody else.
        SignatureWrongError: a signature that does not verify, or a second one by the same key.
    """
    names = {fingerprint(key): name for name, key in keys.items()}
    signed: set[str] = set()
    message = pae(envelope.payload_type, envelope.payload)
    for one in envelope.signatures:
        name = names.get(one.keyid)
        if name is None:
            raise UnknownKeyError(f"a signature by key {one.keyid}, which is no participant's")
        if name in signed:
            raise SignatureWrongError(f"there are two signatures of '{name}'")
        try:
            keys[name].verify(one.sig, message)
        except InvalidSignature as error:
            raise SignatureWrongError(
                f"the signature of '{name}' is wrong: the manifest or the signature was changed",
                hint="do not start it; get the manifest again, or build and sign a new one",
            ) from error
        signed.add(name)
    return tuple(name for name in keys if name in signed)


def verify(envelope: Envelope, keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Verify that exactly the owners of ``keys`` have signed.

    Raises:
        SignatureMissingError: somebody has not.
        UnknownKeyError, SignatureWrongError: see ``verify_present``.
    """
    signed = verify_present(envelope, keys)
    missing = [name for name in keys if name not in signed]
    if missing or not keys:
        raise SignatureMissingError(
            f"not signed by {', '.join(missing) or 'anybody'}",
            hint="each participant signs: sealtune job sign; copies become one: sealtune job merge",
        )


def _signature(value: object) -> Signature:
    fields = _fields(value, "keyid", "sig")
    keyid, sig = fields["keyid"], _bytes(fields["sig"], "signature", _SIGNATURE)
    if not isinstance(keyid, str) or len(keyid) != 64 or set(keyid) - set("0123456789abcdef"):
        raise _malformed("a signature's keyid is not a fingerprint of 64 hex digits")
    if len(sig) != _SIGNATURE:
        raise _malformed(f"a signature has {len(sig)} bytes, not {_SIGNATURE}")
    return Signature(keyid, sig)


def _fields(value: object, *names: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise _malformed(f"has an object without exactly the keys {', '.join(names)}")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object, what: str, limit: int) -> bytes:
    if not isinstance(text, str) or len(text) > 4 * (limit + 2) // 3 + 3:
        raise _malformed(f"its {what} is not base64 of at most {limit} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed(f"its {what} is not base64") from error
    if _base64(data) != text:  # left-over bits could be changed without notice
        raise _malformed(f"its {what} is not base64 in its one proper form")
    return data


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands there twice")
    return result


def _malformed(message: str) -> MalformedManifestError:
    return MalformedManifestError(
        f"the signed file {message}",
        hint="`sealtune job build` writes manifests, `sealtune site describe` cards",
    )
