"""SEV-SNP reports of a made-up AMD: each check of the verifier, tried by itself."""

from __future__ import annotations

from typing import Any

import pytest

from sealtune.attest import Evidence, Kind
from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    GuestPolicyError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    PlatformNotAllowedError,
    StaleCollateralError,
    TrailingBytesError,
    WrongReportDataError,
)
from sealtune.attest.platforms.certs import load_der
from sealtune.attest.platforms.sev_snp.report import AMD_ROOTS, REPORT_SIZE, SIGNED, SnpVerifier
from sealtune.errors import AttestationError
from tests.attest import amd
from tests.attest.authority import Authority
from tests.attest.public import day, flips, policy


def test_made_up_report_accepted_only_under_its_own_root() -> None:
    key, chain = amd.certificate()
    amd.verify(amd.report(key), chain)
    with pytest.raises(BadChainError, match="pinned root"):
        amd.verify(amd.report(key), chain, roots=AMD_ROOTS)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 1}, MalformedEvidenceError),
        ({"version": 6}, MalformedEvidenceError),
        ({"algorithm": 0}, MalformedEvidenceError),
        ({"algorithm": 2}, MalformedEvidenceError),
        ({"zero": 1}, MalformedEvidenceError),
        ({"flags": 1 << 5}, MalformedEvidenceError),
        ({"version": 3, "cpuid": b"\x19\x11\1"}, BadChainError),  # of a Genoa
        ({"version": 3, "cpuid": b"\x1a\x02\1"}, BadChainError),  # of a Turin
        ({"version": 3, "cpuid": b"\x1b\x02\1"}, BadChainError),  # of something newer
        ({"version": 3}, BadChainError),  # of nothing
        ({"vmpl": 2**32 - 1}, GuestPolicyError),  # asked for by the host
        ({"flags": 1 << 2}, BadChainError),  # says VLEK
        ({"flags": 7 << 2}, BadChainError),  # signed by nothing
        ({"chip": bytes(63) + b"\1"}, BadChainError),
    ],
)
def test_made_up_reports_refused(fields: dict[str, Any], error: type[Exception]) -> None:
    key, chain = amd.certificate()
    with pytest.raises(error):
        amd.verify(amd.report(key, **fields), chain)


def test_masked_chip_id_is_accepted_but_names_no_machine() -> None:
    key, chain = amd.certificate()
    raw = amd.report(key, chip=bytes(64))
    assert amd.verify(raw, chain).platform == ""
    with pytest.raises(PlatformNotAllowedError, match="unnamed"):
        amd.verify(raw, chain, platforms=("00" * 64,))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SEV-VLEK", {}),
        ("SEV-ASK", {}),
        ("SEV-VCEK", {"x3_8": b"\x02\x01\x74"}),  # other patch levels than reported
        ("SEV-VCEK", {"x3_1": b"\x02\x01\x04"}),
        ("SEV-VCEK", {"x3_2": b""}),  # none at all
        ("SEV-VCEK", {"x3_3": b"\x02\x02\x01\x08"}),
        ("SEV-VCEK", {"x2": b""}),
        ("SEV-VCEK", {"x4": b""}),
        ("SEV-VCEK", {"x4": amd.CHIP[:32]}),
    ],
)
def test_made_up_certificates_refused(name: str, change: dict[str, bytes]) -> None:
    key, chain = amd.certificate(name, **change)
    with pytest.raises(BadChainError):
        amd.verify(amd.report(key), chain)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_versions_and_patch_levels_up_to_255(version: int) -> None:
    key, chain = amd.certificate(x3_8=amd.spl(255))
    raw = amd.report(
        key, version=version, cpuid=b"\x19\x0f\1", reported=amd.TCB[:7] + b"\xff", flags=0b11
    )
    assert amd.verify(raw, chain).details["report version"] == str(version)
    key, chain = amd.certificate(x2=amd.ia5("Genoa"))
    amd.verify(amd.report(key, version=3, cpuid=b"\x19\x10\1"), chain)
    with pytest.raises(BadChainError, match="certificate is of a Genoa, not a Milan"):
        amd.verify(amd.report(key, version=3, cpuid=b"\x19\x0f\1"), chain)


def test_report_that_says_it_is_signed_by_no_such_key() -> None:
    key, chain = amd.certificate()
    for number in range(2, 8):
        with pytest.raises(BadChainError, match=f"signed by key {number}, no VCEK"):
            amd.verify(amd.report(key, flags=number << 2), chain)


def test_certificate_with_wrapped_chip_id() -> None:
    key, chain = amd.certificate(x4=b"\x04\x40" + amd.CHIP)
    amd.verify(amd.report(key), chain)


def test_issuer_must_be_allowed_to_issue() -> None:
    vendor = Authority(intermediate_is_ca=False)
    key, chain = vendor.leaf("SEV-VCEK", {})
    with pytest.raises(BadChainError, match="may not issue"):
        amd.verify(amd.report(key), chain, roots=vendor.roots)


def test_signature_of_another_key_and_unused_bytes() -> None:
    key, chain = amd.certificate()
    other, _ = amd.certificate()
    with pytest.raises(BadSignatureError):
        amd.verify(amd.report(other), chain)
    for place in (SIGNED + 48, SIGNED + 71, SIGNED + 120, SIGNED + 144, REPORT_SIZE - 1):
        raw = bytearray(amd.report(key))
        raw[place] = 1
        with pytest.raises(BadSignatureError):
            amd.verify(bytes(raw), chain)
    zero = bytearray(amd.report(key))
    zero[SIGNED : SIGNED + 144] = bytes(144)
    with pytest.raises(BadSignatureError):
        amd.verify(bytes(zero), chain)


def blocks(chain: bytes) -> list[bytes]:
    """The PEM blocks of a chain: leaf, intermediate, root."""
    foot = b"-----END CERTIFICATE-----\n"
    return [part + foot for part in chain.split(foot)[:-1]]


def test_made_up_chain_in_any_order_among_other_text() -> None:
    key, chain = amd.certificate()
    leaf, middle, root = blocks(chain)
    raw = amd.report(key)
    other = blocks(amd.certificate("SEV-VLEK")[1])[0]
    honest = amd.verify(raw, chain)
    for fine in (
        root + middle + leaf,
        b"subject=CN = root\r\n" + root + b"\n\n# the chip\n" + leaf + middle,
        middle + leaf + root + middle,
        chain.replace(b"\n", b"\r\n"),
        other + chain,
    ):
        assert amd.verify(raw, fine) == honest
    for wrong, said in (
        (leaf + middle, "1 fitting"),
        (leaf + root, "0 fitting"),
        (middle + root, "0 of that name .given: middle, root"),
        (blocks(amd.certificate()[1])[0] + chain, "2 of that name"),
        (blocks(amd.certificate("\x1b[2J")[1])[0], r"given: .x1b\[2J"),
        (chain[:-40], "cut short"),
        (chain.replace(b"MII", b"M?I", 1), "cut short"),
        (chain.replace(b"MII", b"MI=", 1), "not base64|not an X"),
        (b"no certificate", "no certificate in PEM"),
        (b"".join(blocks(amd.certificate()[1])[0] for _ in range(9)), "more than 8"),
    ):
        with pytest.raises(BadChainError, match=said):
            amd.verify(raw, wrong)


def test_made_up_report_about_itself() -> None:
    """Time, nonce, sizes, kind: each refused for its own reason."""
    key, chain = amd.certificate()
    raw = amd.report(key)
    amd.verify(raw, chain)
    with pytest.raises(WrongReportDataError):
        amd.verify(raw, chain, report_data=bytes(64))
    for when in ("2023-12-31", "2049-01-02"):
        with pytest.raises(StaleCollateralError, match="not at"):
            amd.verify(raw, chain, at=when)
    with pytest.raises(MissingCollateralError):
        amd.verify(raw, b"")
    with pytest.raises(OversizeEvidenceError, match="certificates of"):
        amd.verify(raw, chain + b" " * (1 << 20))
    with pytest.raises(TrailingBytesError):
        amd.verify(raw + b"\0", chain)
    with pytest.raises(MalformedEvidenceError, match="not 1184"):
        amd.verify(raw[:-1], chain)
    with pytest.raises(OversizeEvidenceError):
        amd.verify(bytes((1 << 20) + 1), chain)
    with pytest.raises(PlatformNotAllowedError):
        amd.verify(raw, chain, platforms=("00" * 64,))
    amd.verify(raw, chain, platforms=(amd.CHIP.hex(),))
    with pytest.raises(MalformedEvidenceError, match="tdx evidence"):
        SnpVerifier(chain, roots=amd.VENDOR.roots).verify(
            Evidence(Kind.TDX, raw),
            report_data=raw[0x50:0x90],
            policy=policy(Kind.SEV_SNP),
            at=day("2025-06-01"),
        )


def test_one_bit_of_a_made_up_report() -> None:
    key, chain = amd.certificate()
    raw = amd.report(key)
    for changed in flips(raw, 300, seed=5):
        with pytest.raises(AttestationError):
            amd.verify(changed, chain)


def test_not_a_certificate() -> None:
    with pytest.raises(BadChainError):
        load_der(b"\x30\x00")
