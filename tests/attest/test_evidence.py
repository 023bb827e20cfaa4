"""Evidence on the wire, and the 64 bytes it is made over."""

from __future__ import annotations

import hashlib
import struct
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealtune.attest import Evidence, Kind
from sealtune.attest.errors import (
    MalformedEvidenceError,
    OversizeEvidenceError,
    TrailingBytesError,
)
from sealtune.attest.evidence import DOMAIN, HEADER, MAX_EVIDENCE, MAX_PART, gpu_nonce, report_data


@given(
    st.sampled_from(Kind), st.binary(max_size=99), st.binary(max_size=99), st.binary(max_size=99)
)
def test_round_trip(kind: Kind, data: bytes, endorsements: bytes, gpu: bytes) -> None:
    evidence = Evidence(kind, data, endorsements, gpu)
    assert Evidence.decode(evidence.encode()) == evidence


def test_refused() -> None:
    good = Evidence(Kind.SGX, b"quote", b"chain", b"gpu").encode()
    with pytest.raises(TrailingBytesError):
        Evidence.decode(good + b"\0")
    for cut in range(len(good)):
        with pytest.raises(MalformedEvidenceError):
            Evidence.decode(good[:cut])
    for place, value in ((0, 0), (4, 2), (5, 99), (6, 1)):
        bad = bytearray(good)
        bad[place] = value
        with pytest.raises(MalformedEvidenceError):
            Evidence.decode(bytes(bad))


def test_oversize_is_refused_before_parsing() -> None:
    with pytest.raises(OversizeEvidenceError):
        Evidence.decode(bytes(MAX_EVIDENCE + 1))
    with pytest.raises(OversizeEvidenceError):
        Evidence.decode(HEADER.pack(b"STEV", 1, 0, 0, MAX_PART + 1, 0, 0))
    with pytest.raises(OversizeEvidenceError):
        Evidence(Kind.SGX, bytes(MAX_PART + 1)).encode()


def test_sizes_at_their_limit() -> None:
    """A MiB for each part, and 20 bytes of header."""
    largest = Evidence(Kind.SGX, bytes(1 << 20), bytes(1 << 20), bytes(1 << 20))
    raw = largest.encode()
    assert len(raw) == MAX_EVIDENCE == 20 + 3 * (1 << 20)
    assert Evidence.decode(raw) == largest


def test_wire_format_by_hand() -> None:
    raw = Evidence(Kind.SEV_SNP, b"data", b"chain", b"gpu!!!").encode()
    assert raw.hex() == ("5354455601030000040000000500000006000000") + b"datachaingpu!!!".hex()


def test_report_data_by_hand() -> None:
    """Design, section 5.2: SHA-512 over length-prefixed fields, in this order."""
    fields = [
        DOMAIN.encode(),
        b"client:a",
        b"n" * 32,
        b"j" * 48,
        b"pk",
        b"context",
        hashlib.sha256(b"gpu").digest(),
    ]
    expected = hashlib.sha512(b"".join(struct.pack("<I", len(f)) + f for f in fields)).digest()
    got = report_data(
        DOMAIN,
        "client:a",
        nonce=b"n" * 32,
        job_id=b"j" * 48,
        public_key=b"pk",
        context=b"context",
        gpu_evidence_digest=hashlib.sha256(b"gpu").digest(),
    )
    assert got == expected
    assert len(got) == 64


def test_every_field_of_report_data_counts() -> None:
    """Also where bytes move from one field into the next."""
    seen = set()
    for domain, role, nonce, job, key, said, gpu in product(
        ("a", "ab"),
        ("c", "bc"),
        (b"n", b"nj"),
        (b"j", b"jk"),
        (b"k", b""),
        (b"", b"k"),
        (b"", b"k"),
    ):
        fields = {"public_key": key, "context": said, "gpu_evidence_digest": gpu}
        seen.add(report_data(domain, role, nonce=nonce, job_id=job, **fields))
    assert len(seen) == 128


def test_gpu_nonce_differs_from_all_else() -> None:
    one = gpu_nonce("server", b"n", b"j", b"k")
    assert len(one) == 32
    assert one != gpu_nonce("client:a", b"n", b"j", b"k")
    assert one != gpu_nonce("server", b"m", b"j", b"k")


def test_what_no_hardware_stands_behind_is_not_confidential() -> None:
    open_kinds = {k for k in Kind if not k.confidential}
    assert open_kinds == {Kind.SIMULATED, Kind.PARTICIPANT, Kind.UNATTESTED}
