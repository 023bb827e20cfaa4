"""The layout of Intel DCAP quotes (SGX version 3, TDX versions 4 and 5), parsed strictly.

Source: Intel SGX ECDSA QuoteLib reference, Intel TDX DCAP quoting library API. Only the layout is
known here; signatures and TCB are the business of `dcap` beside it. Every length must add up and
nothing may follow, because `dcap-qvl` ignores what follows a quote. All integers little-endian.

    header 48 | v5: body type u16, body size u32 | body | auth size u32 | auth

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sealtune.attest.errors import (
    MalformedEvidenceError,
    OversizeEvidenceError,
    TrailingBytesError,
)
from sealtune.attest.evidence import Kind

MAX_QUOTE = 1 << 16  # bytes; a quote with its certificates has about 5,000
HEADER = struct.Struct("<HHI4s16s20s")
TEE_SGX, TEE_TDX = 0x00, 0x81
SGX_BODY, TD10_BODY, TD15_BODY = 384, 584, 648
_V5_BODIES = {2: TD10_BODY, 3: TD15_BODY}
QE_REPORT, ECDSA = 384, 64
CERT_QE_REPORT, CERT_PCK_CHAIN = 6, 5


@dataclass(frozen=True)
class Quote:
    """A quote, taken apart.

    Attributes:
        kind: SGX or TDX.
        version: 3, 4 or 5.
        body: the enclave report or TD report.
        pck_chain: the certificates that came with it, PEM.
        size: bytes of the whole quote.
    """

    kind: Kind
    version: int
    body: bytes
    pck_chain: bytes
    size: int

    def field(self, offset: int, size: int) -> bytes:
        """Bytes of the body."""
        return self.body[offset : offset + size]

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the quote is over."""
        return self.field(320 if self.kind is Kind.SGX else 520, 64)

    @property
    def attributes(self) -> int:
        """SGX: the 64 flag bits of ATTRIBUTES; TDX: TDATTRIBUTES."""
        return int.from_bytes(self.field(48 if self.kind is Kind.SGX else 120, 8), "little")


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, size: int) -> bytes:
        if size > len(self.raw) - self.at:
            raise MalformedEvidenceError(f"quote of {len(self.raw)} bytes is cut short")
        self.at += size
        return self.raw[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def end(self, what: str) -> None:
        if self.at != len(self.raw):
            raise MalformedEvidenceError(f"{what} of the quote has a wrong length")


def parse_quote(raw: bytes) -> Quote:
    """Take a quote apart.

    Raises:
        OversizeEvidenceError: more than `MAX_QUOTE` bytes.
        TrailingBytesError: something follows the quote.
        MalformedEvidenceError: anything else that is not a quote.
    """
    quote = _parse(raw)
    if quote.size != len(raw):
        raise TrailingBytesError(f"{len(raw) - quote.size} bytes follow the quote")
    return quote


def trim_padding(raw: bytes) -> bytes:
    """Cut zero bytes that follow a quote; anything else stays, to be refused.

    Quoting services return fixed-size buffers. Use this where a quote is collected or read from a
    file, never on what a peer sent.
    """
    try:
        size = _parse(raw).size
    except MalformedEvidenceError:
        return raw
    return raw if any(raw[size:]) else raw[:size]


def _parse(raw: bytes) -> Quote:
    if len(raw) > MAX_QUOTE:
        raise OversizeEvidenceError(f"quote of {len(raw)} bytes, limit {MAX_QUOTE}")
    reader = _Reader(raw)
    version, key_type, tee, *_ = HEADER.unpack(reader.take(HEADER.size))
    if version not in (3, 4, 5):
        raise MalformedEvidenceError(f"quote version {version} is not 3, 4 or 5")
    if key_type != 2:
        raise MalformedEvidenceError(f"attestation key type {key_type} is not ECDSA P-256")
    if tee not in (TEE_SGX, TEE_TDX):
        raise MalformedEvidenceError(f"quote of an unknown TEE, type {tee:#x}")
    if (version == 3) != (tee == TEE_SGX):
        raise MalformedEvidenceError(f"quote of version {version} for TEE type {tee:#x}")
    size = SGX_BODY if tee == TEE_SGX else TD10_BODY
    if version == 5:
        body_type, announced = reader.number(2), reader.number(4)
        if _V5_BODIES.get(body_type) != announced:
            raise MalformedEvidenceError(f"quote body type {body_type} of {announced} bytes")
        size = announced
    body = reader.take(size)
    chain = _pck_chain(reader.take(reader.number(4)), version)
    kind = Kind.SGX if tee == TEE_SGX else Kind.TDX
    return Quote(kind, version, body, chain, reader.at)


def _pck_chain(auth: bytes, version: int) -> bytes:
    """The PEM chain inside the signature part; all lengths must add up exactly."""
    reader = _Reader(auth)
    reader.take(2 * ECDSA)  # signature over header and body, attestation key
    if version > 3:
        kind, size = reader.number(2), reader.number(4)
        if kind != CERT_QE_REPORT:
            raise MalformedEvidenceError(f"certification data of type {kind}, not 6")
        inner = reader.take(size)
        reader.end("certification data")
        reader = _Reader(inner)
    reader.take(QE_REPORT + ECDSA)
    reader.take(reader.number(2))  # authentication data of the quoting enclave
    kind, size = reader.number(2), reader.number(4)
    if kind != CERT_PCK_CHAIN:
        raise MalformedEvidenceError(
            f"certificates of type {kind}: only quotes that carry their PCK chain (type 5) are "
            "supported"
        )
    chain = reader.take(size)
    reader.end("PCK chain")
    return chain.removesuffix(b"\0")
