"""Digests of kernels as firmware measures them."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealtune.errors import ConfigError
from sealtune.images.authenticode import authenticode
from sealtune.images.image import Image
from tests.images.made_up import pe


def slowly(data: bytes, excluded: list[range]) -> bytes:
    """Over every byte that is not excluded, in the file's order."""
    gone = {at for part in excluded for at in part}
    return hashlib.sha384(bytes(b for at, b in enumerate(data) if at not in gone)).digest()


CHECKSUM, ENTRY = range(0x98 + 64, 0x98 + 68), range(0x98 + 144, 0x98 + 152)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tail", [b"", b"signature" * 8])
def test_everything_but_checksum_and_signature(count: int, tail: bytes) -> None:
    sections = [bytes([65 + number]) * 512 for number in range(count)]
    data = pe(sections, tail=tail)
    gone = [CHECKSUM, ENTRY, range(len(data) - len(tail), len(data))]
    assert authenticode(data) == slowly(data, gone)


def test_what_is_hashed_and_what_is_not() -> None:
    data = bytearray(pe(tail=b"s" * 16))
    before = authenticode(bytes(data))
    for at in (CHECKSUM[0], ENTRY[0], len(data) - 1):  # a signature changes these
        data[at] ^= 1
    assert authenticode(bytes(data)) == before
    data[1024] ^= 1
    assert authenticode(bytes(data)) != before


def test_debian_signed_the_digest_that_is_computed(aggregator: Image) -> None:
    """A signed kernel holds its own digest, made by Debian's tools."""
    kernel = aggregator.vmlinuz.read_bytes()
    assert b"Debian Secure Boot Signer" in kernel
    assert authenticode(kernel, "sha256") in kernel


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MZ",
        b"no kernel" * 1000,
        pe()[:600],
        pe().replace(b"PE\0\0", b"NE\0\0"),
        pe(tail=b"s" * 16)[:-17],
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="vmlinuz"):
        authenticode(data)


@given(st.data())
def test_headers_that_lie_are_refused_or_hashed(data: st.DataObject) -> None:
    image = bytearray(pe(tail=b"s" * 16))
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, 0x98 + 400))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ConfigError):
        assert len(authenticode(bytes(image))) == 48
