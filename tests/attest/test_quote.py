"""The layout of quotes: every field that has one right value, and lengths that add up."""

from __future__ import annotations

import struct

import pytest

from sealtune.attest import Kind
from sealtune.attest.errors import (
    MalformedEvidenceError,
    OversizeEvidenceError,
    TrailingBytesError,
)
from sealtune.attest.platforms.intel.quote import MAX_QUOTE, parse_quote, trim_padding
from tests.attest import intel
from tests.attest.intel import quote, sgx_body, td_body

TD = quote(td_body())


@pytest.mark.parametrize(
    ("body", "version", "kind"),
    [
        (sgx_body(), 3, Kind.SGX),
        (td_body(), 4, Kind.TDX),
        (td_body(), 5, Kind.TDX),
        (td_body(large=True), 5, Kind.TDX),
    ],
)
def test_parsed(body: bytes, version: int, kind: Kind) -> None:
    pem = intel.chain(intel.pck(), intel.PLATFORM_CA, intel.ROOT)
    raw = quote(body, version=version, certificates=pem)
    parsed = parse_quote(raw)
    assert (parsed.kind, parsed.version, parsed.body, parsed.size) == (
        kind,
        version,
        body,
        len(raw),
    )
    assert parsed.report_data == intel.REPORT_DATA
    assert parsed.attributes == (0x5 if kind is Kind.SGX else intel.TD_SEPT_VE)
    assert parsed.pck_chain == pem


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (quote(td_body(), version=2), "version 2 is not"),
        (quote(td_body(), version=6), "version 6 is not"),
        (quote(td_body(), key_type=1), "key type 1"),
        (quote(td_body(), key_type=3), "key type 3"),  # ECDSA P-384
        (quote(td_body(), tee=1), "unknown TEE, type 0x1"),
        (quote(td_body(), tee=0x82), "unknown TEE"),
        (quote(td_body(), version=3), "version 3 for TEE type 0x81"),
        (quote(sgx_body(), version=4), "version 4 for TEE type 0x0"),
        (quote(sgx_body(), version=5), "version 5 for TEE type 0x0"),
        (quote(sgx_body(), version=5, tee=0x81), "body type 1 of 384"),
        (quote(td_body(), certification=5), "data of type 5, not 6"),
        (quote(td_body(), certification=7), "data of type 7, not 6"),
        (quote(td_body(), chain_type=3), "certificates of type 3"),
        (quote(sgx_body(), version=3, chain_type=6), "certificates of type 6"),
    ],
)
def test_fields_with_one_right_value(raw: bytes, said: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=said):
        parse_quote(raw)


def test_body_type_and_size_go_together() -> None:
    raw = bytearray(quote(td_body(), version=5))
    for kind, size in ((1, 384), (2, 648), (3, 584), (4, 584), (0, 584), (2, 583)):
        struct.pack_into("<HI", raw, 48, kind, size)
        with pytest.raises(MalformedEvidenceError, match="quote body type"):
            parse_quote(bytes(raw))


def test_every_cut_is_refused() -> None:
    for size in range(len(TD)):
        with pytest.raises(MalformedEvidenceError, match=f"quote of {size} bytes is cut short"):
            parse_quote(TD[:size])


def _at(raw: bytes, place: int, add: int, size: int = 4) -> bytes:
    value = int.from_bytes(raw[place : place + size], "little") + add
    return raw[:place] + value.to_bytes(size, "little") + raw[place + size :]


def test_lengths_add_up() -> None:
    """One byte more or less in any length field, with bytes enough behind it."""
    auth = 48 + 584
    inner = auth + 4 + 128 + 2
    authentication = inner + 4 + 384 + 64
    chain = authentication + 2 + 32 + 2
    for place, size in ((auth, 4), (inner, 4), (authentication, 2), (chain, 4)):
        for add in (1, -1, 1000):
            with pytest.raises(MalformedEvidenceError):
                parse_quote(_at(TD, place, add, size) + bytes(add if add > 0 else 0))
    # Lengths that agree, around bytes that nobody reads.
    for places, said in (((auth, inner), "PCK chain"), ((auth,), "certification data")):
        longer = TD
        for place in places:
            longer = _at(longer, place, 1)
        with pytest.raises(MalformedEvidenceError, match=f"{said} of the quote has a wrong length"):
            parse_quote(longer + b"\0")


def test_what_follows_a_quote() -> None:
    for rest in (b"\0", b"x", bytes(1000)):
        with pytest.raises(TrailingBytesError, match=f"{len(rest)} bytes follow"):
            parse_quote(TD + rest)
    assert trim_padding(TD + bytes(100)) == TD
    assert trim_padding(TD + bytes(100) + b"x") == TD + bytes(100) + b"x"
    assert trim_padding(b"no quote\0\0") == b"no quote\0\0"
    parse_quote(quote(td_body(), certificates=b"-----BEGIN\n\0"))
    assert parse_quote(quote(td_body(), certificates=b"pem\n\0")).pck_chain == b"pem\n"


def test_size() -> None:
    room = MAX_QUOTE - len(TD)
    with pytest.raises(TrailingBytesError):
        parse_quote(TD + bytes(room))
    with pytest.raises(OversizeEvidenceError, match="limit 65536"):
        parse_quote(TD + bytes(room + 1))
