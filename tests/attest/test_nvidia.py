"""NVIDIA GPUs: recorded Hopper evidence, and manifests real and made up."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sealtune.attest import Claims, Evidence, Kind
from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    PlatformNotAllowedError,
    StaleCollateralError,
    TcbOutOfDateError,
    TrailingBytesError,
    UnknownMeasurementError,
    WrongReportDataError,
)
from sealtune.attest.platforms.nvidia_gpu.report import NvidiaVerifier, parse_report, reported_nonce
from sealtune.attest.platforms.nvidia_gpu.rim import RIM_ROOTS, load_rim
from sealtune.errors import AttestationError
from tests.attest.authority import Authority, sign_raw
from tests.attest.gpu import VENDOR, sign_manifest
from tests.attest.public import day, flips, needs_fixtures, policy, read

ONE = "nvidia-attestation-sdk/hopper_evidence.json"
FOUR = "nvidia-attestation-sdk/multi_gpu_hopper.json"
RIMS = ("Driver_RIM_test_no_gpu", "1010_0200_882_96005E0001_test_no_gpu")
STATUSES = ("Unchecked", "RimMatched")


def verify(
    data: bytes,
    *,
    nonce: bytes | None = None,
    rims: tuple[bytes, ...] = (),
    rim_roots: Any = RIM_ROOTS,
    at: str = "2025-01-01",
    **settings: Any,
) -> Claims:
    return NvidiaVerifier(rims, rim_roots=rim_roots).verify(
        Evidence(Kind.NVIDIA_GPU, data),
        report_data=reported_nonce(data) if nonce is None else nonce,
        policy=policy(Kind.NVIDIA_GPU, **{"tcb_statuses": STATUSES, **settings}),
        at=day(at),
    )


def change(data: bytes, **fields: Any) -> bytes:
    entries = json.loads(data)
    entries[0] |= fields
    return json.dumps(entries).encode()


def manifest(name: str) -> bytes:
    return read(f"nvidia-rim/{name}.swidtag")


@needs_fixtures
def test_hopper_accepted() -> None:
    claims = verify(read(ONE))
    assert claims.confidential
    assert claims.tcb_status == "Unchecked"
    assert claims.details["driver"] == "590.12"
    assert claims.details["VBIOS"] == "96.00.a5.00.01"
    assert claims.platform == "48b02df44660da06"
    assert claims.gpu == ()


@needs_fixtures
def test_four_gpus_accepted() -> None:
    claims = verify(read(FOUR))
    machines = {claims.platform, *(gpu.platform for gpu in claims.gpu)}
    assert len(machines) == 4
    assert {gpu.measurement for gpu in claims.gpu} == {claims.measurement}


@needs_fixtures
def test_report_in_hex_with_its_chain() -> None:
    report = read("trustee/nvidia/hopperAttestationReport.txt")
    chain = read("trustee/nvidia/hopper_cert_chain_case1.txt").strip() + b"\n"
    entry = {
        "arch": "HOPPER",
        "certificate": base64.b64encode(chain).decode(),
        "evidence": base64.b64encode(report).decode(),
        "nonce": report[4:36].hex(),
    }
    claims = verify(json.dumps([entry]).encode())
    recorded = json.loads(read("trustee/nvidia/hopperAttestationReport-claims.txt"))
    assert claims.details["driver"] == recorded["config"]["driver_version"]
    assert claims.details["VBIOS"] == recorded["config"]["vbios_version"]
    assert claims.details["firmware id"] == recorded["config"]["fwid"]
    blocks = parse_report(report).blocks
    assert {str(i): value.hex() for i, value in blocks.items()} == recorded["measurements"]


@needs_fixtures
def test_another_nonce_refused() -> None:
    with pytest.raises(WrongReportDataError):
        verify(read(ONE), nonce=bytes(32))
    with pytest.raises(WrongReportDataError):
        verify(change(read(ONE), nonce="00" * 32))


@needs_fixtures
@pytest.mark.parametrize("name", [ONE, FOUR])
def test_one_bit_at_200_places(name: str) -> None:
    data = read(name)
    nonce = reported_nonce(data)
    accepted = 0
    for raw in flips(data, 200, seed=6):
        try:
            verify(raw, nonce=nonce)
            accepted += 1
        except AttestationError:
            pass
    assert accepted == 0


@needs_fixtures
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"tcb_statuses": ("RimMatched",)}, TcbOutOfDateError),
        ({"measurements": ("00" * 48,)}, UnknownMeasurementError),
        ({"platforms": ("00" * 8,)}, PlatformNotAllowedError),
        ({"at": "2019-01-01"}, StaleCollateralError),
    ],
)
def test_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(read(ONE), **settings)


@needs_fixtures
def test_every_gpu_is_held_against_the_policy() -> None:
    """The first may be fine; the list of machines lacks the third."""
    claims = verify(read(FOUR))
    allowed = (claims.platform, claims.gpu[0].platform, claims.gpu[2].platform)
    with pytest.raises(PlatformNotAllowedError):
        verify(read(FOUR), platforms=allowed)
    verify(read(FOUR), platforms=(*allowed, claims.gpu[1].platform))


@needs_fixtures
def test_one_gpu_shown_twice() -> None:
    entries = json.loads(read(ONE)) * 2
    with pytest.raises(MalformedEvidenceError, match="twice"):
        verify(json.dumps(entries).encode())


@needs_fixtures
def test_report_under_the_chain_of_another_gpu() -> None:
    entries = json.loads(read(FOUR))
    swapped = [entries[0] | {"certificate": entries[1]["certificate"]}]
    with pytest.raises(BadSignatureError):
        verify(json.dumps(swapped).encode())


@needs_fixtures
def test_made_up_roots_do_not_count() -> None:
    key, chain = Authority().leaf("GPU")
    raw = base64.b64decode(json.loads(read(ONE))[0]["evidence"])
    r, s = sign_raw(key, raw[:-96])
    forged = raw[:-96] + r.to_bytes(48, "big") + s.to_bytes(48, "big")
    with pytest.raises(BadChainError, match="pinned root"):
        verify(
            change(
                read(ONE),
                evidence=base64.b64encode(forged).decode(),
                certificate=base64.b64encode(chain).decode(),
            )
        )


@needs_fixtures
def test_malformed() -> None:
    data = read(ONE)
    raw = base64.b64decode(json.loads(data)[0]["evidence"])
    nonce = reported_nonce(data)
    for bad in (
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        change(data, more="x"),
        change(data, arch="TURING"),
        change(data, arch=1),
        change(data, evidence="!"),
        change(data, evidence="QQ"),
        change(data, evidence="QR=="),  # not canonical
        change(data, evidence=base64.b64encode(raw[:50]).decode()),
        change(data, evidence=base64.b64encode(raw[:-1]).decode()),
        json.dumps(json.loads(data) * 17).encode(),
    ):
        with pytest.raises(MalformedEvidenceError):
            verify(bad, nonce=nonce)
    with pytest.raises(TrailingBytesError):
        verify(change(data, evidence=base64.b64encode(raw + b"\0").decode()), nonce=nonce)
    with pytest.raises(OversizeEvidenceError):
        verify(bytes((1 << 20) + 1), nonce=nonce)


# ---- manifests ----------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "version", "entries"), [(RIMS[0], "545.00", 21), (RIMS[1], "96.00.5e.00.01", 12)]
)
def test_real_manifests_verify(name: str, version: str, entries: int) -> None:
    rim = load_rim(manifest(name), at=day("2024-06-01"))
    assert (rim.product, rim.version, len(rim.values)) == ("GH100", version, entries)
    with pytest.raises(StaleCollateralError):
        load_rim(manifest(name), at=day("2035-06-01"))
    with pytest.raises(BadChainError):
        load_rim(manifest(name), roots={bytes(32)}, at=day("2024-06-01"))


@needs_fixtures
@pytest.mark.parametrize("name", RIMS)
def test_one_bit_of_a_manifest(name: str) -> None:
    raw = manifest(name)
    honest = load_rim(raw, at=day("2024-06-01"))
    for changed in flips(raw, 300, seed=7):
        try:
            rim = load_rim(changed, at=day("2024-06-01"))
        except AttestationError:
            continue
        assert rim == honest  # unused bits of base64 around the signature


@needs_fixtures
def test_manifests_of_another_version() -> None:
    rims = tuple(manifest(name) for name in RIMS)
    with pytest.raises(MissingCollateralError, match=r"driver 590\.12"):
        verify(read(ONE), rims=rims, at="2024-06-01")


@needs_fixtures
def test_measurements_against_manifests() -> None:
    report = parse_report(base64.b64decode(json.loads(read(ONE))[0]["evidence"]))
    values = {i - 1: [bytes(48), digest] for i, digest in report.blocks.items() if any(digest)}
    driver = {i: v for i, v in values.items() if i > 20}
    vbios = {i: v for i, v in values.items() if i <= 20}

    def check(one: dict[int, list[bytes]], two: dict[int, list[bytes]]) -> Claims:
        rims = (sign_manifest("590.12", one), sign_manifest("96.00.A5.00.01", two))
        return verify(read(ONE), rims=rims, rim_roots=VENDOR.roots)

    assert check(driver, vbios).tcb_status == "RimMatched"
    with pytest.raises(UnknownMeasurementError, match="entries \\[33\\]"):
        check({**driver, 33: [b"\1" * 48]}, vbios)
    with pytest.raises(MissingCollateralError, match="contradict"):
        check(driver, {**vbios, 33: [b"\1" * 48]})
    with pytest.raises(UnknownMeasurementError):
        check({}, {})
    # NVDEC0 is disabled on this machine, so its entry has no meaning.
    assert check({**driver, 35: [b"\1" * 48]}, vbios).tcb_status == "RimMatched"
    with pytest.raises(MissingCollateralError, match="VBIOS"):
        verify(read(ONE), rims=(sign_manifest("590.12", driver),), rim_roots=VENDOR.roots)
