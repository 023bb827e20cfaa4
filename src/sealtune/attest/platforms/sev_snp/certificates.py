"""AMD's certificates in the forms in which hosts and clouds hand them over.

Source: AMD GHCB specification (56421), "SNP Extended Guest Request" (struct cert_table); Azure's
metadata service, ``/metadata/THIM/amd/certification``.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import base64
import json
import struct
import uuid

from sealtune.attest.errors import MissingCollateralError

_KNOWN = (
    "63da758d-e664-4564-adc5-f4b93be8accd",  # VCEK
    "a8074bc2-a25a-483e-aae6-39c045a0b8a1",  # VLEK
    "4ab7b379-bbac-4fe4-a02f-05aef327c782",  # ASK (or ASVK)
    "c0b406a4-a803-4952-9743-3fb6014cd0ae",  # ARK
)
_ENTRY = struct.Struct("<16sII")


def from_table(table: bytes) -> bytes:
    """A host's certificate table as PEM, leaf first; nothing where it is incomplete."""
    found: dict[str, bytes] = {}
    for at in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        name, offset, size = _ENTRY.unpack_from(table, at)
        if not any(name):
            break
        if offset + size > len(table):
            return b""
        found[str(uuid.UUID(bytes_le=name))] = table[offset : offset + size]
    ders = [found[name] for name in _KNOWN if name in found]
    return b"".join(as_pem(der) for der in ders) if len(ders) == 3 else b""


def from_file(raw: bytes) -> bytes:
    """A file of certificates as PEM: PEM, one in DER, or Azure's JSON of a VCEK and its chain.

    Raises:
        MissingCollateralError: JSON of another form.
    """
    if b"-----BEGIN CERTIFICATE-----" in raw and not raw.lstrip().startswith(b"{"):
        return raw.rstrip() + b"\n"
    if not raw.lstrip().startswith(b"{"):
        return as_pem(raw)
    try:
        value = json.loads(raw)
        texts = [value[name] for name in ("vcekCert", "certificateChain")]
        return "\n".join([*texts, ""]).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MissingCollateralError(
            "JSON of certificates needs vcekCert and certificateChain, as Azure's metadata service "
            "answers"
        ) from error


def as_pem(der: bytes) -> bytes:
    """A certificate in PEM."""
    text = base64.b64encode(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    head, foot = (b"-----" + word + b" CERTIFICATE-----" for word in (b"BEGIN", b"END"))
    return b"\n".join([head, *lines, foot, b""])
