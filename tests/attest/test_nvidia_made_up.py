"""GPUs of a made-up NVIDIA: each check of the verifier, tried by itself."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from sealtune.attest import AppraisalPolicy, Evidence, Kind
from sealtune.attest.appraise import verify_party
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
from sealtune.attest.platforms.certs import sha384
from sealtune.attest.platforms.nvidia_gpu.report import NvidiaVerifier, parse_report, reported_nonce
from sealtune.errors import AttestationError
from tests.attest.authority import Authority
from tests.attest.gpu import (
    BLOCKS,
    DRIVER,
    FWID,
    NONCE,
    VBIOS,
    VENDOR,
    alternative_name,
    block,
    device,
    entry,
    field,
    manifests,
    one,
    opaque,
    report,
    resource,
    sign_manifest,
    verify,
)
from tests.attest.public import day, flips, kind_policy, policy
from tests.attest.test_verify import Enclave

KEY, CHAIN = device()
GOOD = json.dumps([entry(report(KEY), CHAIN)]).encode()
RIMS = manifests()


def changed(**fields: Any) -> bytes:
    return json.dumps([json.loads(GOOD)[0] | fields]).encode()


# ---- accepted ---------------------------------------------------------------------------------


def test_one_gpu() -> None:
    claims = verify(GOOD)
    assert (claims.confidential, claims.tcb_status) == (True, "Unchecked")
    record = b"".join(block(index, value) for index, value in BLOCKS.items())
    assert claims.measurement == sha384(record).hex()
    assert claims.platform == "48b02df44660da06"
    assert claims.report_data == NONCE.hex()
    assert claims.firmware == {"driver": DRIVER, "vbios": VBIOS}
    assert claims.details["chip"] == "GH100"
    assert claims.details["firmware id"] == FWID.hex()
    assert reported_nonce(GOOD) == NONCE


def four() -> list[dict[str, Any]]:
    entries = []
    for number in range(4):
        key, chain = device(f"NVIDIA:GH100:0{number}")
        entries.append(entry(report(key), chain))
    return entries


def test_four_gpus_each_held_against_the_policy() -> None:
    data = json.dumps(four()).encode()
    claims = verify(data)
    assert [claims.platform, *(gpu.platform for gpu in claims.gpu)] == ["00", "01", "02", "03"]
    for missing in range(4):
        allowed = tuple(f"0{number}" for number in range(4) if number != missing)
        with pytest.raises(PlatformNotAllowedError, match=f"machine 0{missing}"):
            verify(data, platforms=allowed)
    with pytest.raises(MalformedEvidenceError, match="twice"):
        verify(json.dumps([*four(), json.loads(GOOD)[0], json.loads(GOOD)[0]]).encode())
    sixteen = [json.loads(GOOD)[0]] * 16
    with pytest.raises(MalformedEvidenceError, match="twice"):
        verify(json.dumps(sixteen).encode())
    with pytest.raises(MalformedEvidenceError, match="list of 1 to 16"):
        verify(json.dumps([*sixteen, sixteen[0]]).encode())


def test_report_under_the_chain_of_another_gpu() -> None:
    entries = four()
    entries[0]["certificate"] = entries[1]["certificate"]
    with pytest.raises(BadSignatureError):
        verify(json.dumps(entries[:1]).encode())


# ---- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"nonce": bytes(32)}, WrongReportDataError),
        ({"at": "2023-12-31"}, StaleCollateralError),
        ({"at": "2049-01-02"}, StaleCollateralError),
        ({"tcb_statuses": ("RimMatched",)}, TcbOutOfDateError),
        ({"measurements": ("00" * 48,)}, UnknownMeasurementError),
        ({"platforms": ("00" * 8,)}, PlatformNotAllowedError),
        ({"kind": Kind.TDX}, MalformedEvidenceError),
        ({"min_firmware": {"driver": "550.90.08", "vbios": "0"}}, TcbOutOfDateError),
        ({"min_firmware": {"driver": "0", "vbios": "96.00.9f.00.02"}}, TcbOutOfDateError),
    ],
)
def test_refused(settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        verify(GOOD, **settings)


def test_old_firmware_is_refused_although_its_manifests_are_genuine() -> None:
    """What NVIDIA once signed stays signed: only a minimum keeps a driver with known holes out."""
    least = {"min_firmware": {"driver": DRIVER, "vbios": VBIOS}}
    assert verify(GOOD, rims=RIMS, **least).tcb_status == "RimMatched"
    old = one(fields=opaque(driver="535.54.03"))
    rims = manifests(driver="535.54.03")
    assert verify(old, rims=rims).tcb_status == "RimMatched"
    with pytest.raises(TcbOutOfDateError, match=r"driver of the GPU has version 535\.54\.03"):
        verify(old, rims=rims, **least)


def test_nonce_is_that_of_report_and_json() -> None:
    with pytest.raises(WrongReportDataError):
        verify(changed(nonce="00" * 32))
    with pytest.raises(WrongReportDataError):
        verify(changed(nonce=NONCE.hex().upper()))
    with pytest.raises(WrongReportDataError):
        verify(one(nonce=b"\1" * 32))
    assert reported_nonce(one(nonce=b"\1" * 32)) == b"\1" * 32


def test_roots() -> None:
    verifier = NvidiaVerifier()
    with pytest.raises(BadChainError, match="pinned root"):
        verifier.verify(
            Evidence(Kind.NVIDIA_GPU, GOOD),
            report_data=NONCE,
            policy=policy(Kind.NVIDIA_GPU),
            at=day("2025-01-01"),
        )
    key, chain = device(vendor=Authority())
    with pytest.raises(BadChainError, match="pinned root"):
        verify(json.dumps([entry(report(key), chain)]).encode())
    key, chain = device(vendor=Authority(intermediate_is_ca=False))
    with pytest.raises(BadChainError):
        verify(json.dumps([entry(report(key), chain)]).encode())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NVIDIA:GB100:01", "certificate of a GB100 in evidence of a HOPPER"),
        ("OTHER:GH100:01", "names no NVIDIA device"),
        ("NVIDIA:GH100", "names no NVIDIA device"),
        ("NVIDIA:GH100:01:02", "names no NVIDIA device"),
    ],
)
def test_device_names(name: str, said: str) -> None:
    key, chain = device(name)
    with pytest.raises(BadChainError, match=said):
        verify(json.dumps([entry(report(key), chain)]).encode())


def test_device_name_of_another_type_or_none() -> None:
    other = alternative_name("NVIDIA:GH100:01", oid="1.3.6.1.4.1.412.274.2")
    for extension in (other, b""):
        key, chain = device(x2_5_29_17=extension)
        with pytest.raises(BadChainError, match="names no"):
            verify(json.dumps([entry(report(key), chain)]).encode())


@pytest.mark.parametrize(
    ("in_certificate", "in_report"),
    [(b"\xf2" * 48, FWID), (FWID, b"\xf2" * 48), (FWID, FWID[:47]), (FWID, b""), (b"", FWID)],
)
def test_firmware_id_of_certificate_and_report_agree(
    in_certificate: bytes, in_report: bytes
) -> None:
    key, chain = device(fwid=in_certificate)
    raw = report(key, fields=opaque(fwid=in_report))
    with pytest.raises(BadChainError, match="another firmware"):
        verify(json.dumps([entry(raw, chain)]).encode())
    key, chain = device(x2_23_133_5_4_1=b"")
    with pytest.raises(BadChainError, match="another firmware"):
        verify(json.dumps([entry(report(key), chain)]).encode())


def test_one_bit_at_300_places() -> None:
    for raw in flips(GOOD, 300, seed=8):
        with pytest.raises(AttestationError):
            verify(raw)


def test_json_around_reports() -> None:
    raw = report(KEY)
    for bad in (
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"\xff",
        b"[" * 100_000,
        changed(more="x"),
        json.dumps([{k: v for k, v in json.loads(GOOD)[0].items() if k != "nonce"}]).encode(),
        changed(arch="TURING"),
        changed(arch=1),
        changed(evidence="!"),
        changed(evidence="QQ"),
        changed(evidence="QR=="),  # not canonical
        changed(certificate="QR=="),
        changed(evidence=base64.b64encode(raw[:44]).decode()),
        changed(evidence=base64.b64encode(raw[:-1]).decode()),
    ):
        with pytest.raises(MalformedEvidenceError):
            verify(bad)
    with pytest.raises(TrailingBytesError):
        verify(changed(evidence=base64.b64encode(raw + b"\0").decode()))
    with pytest.raises(OversizeEvidenceError):
        verify(GOOD.ljust((1 << 20) + 1))
    verify(GOOD.ljust(1 << 20))
    with pytest.raises(BadChainError):
        verify(changed(certificate=base64.b64encode(b"-" + CHAIN).decode()))


# ---- layout of a report -----------------------------------------------------------------------

TWO = block(1, b"\1" * 48) + block(2, b"\2" * 48)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"head": b"\x10\xe0\1\xff"}, "not an SPDM 1.1"),
        ({"head": b"\x11\xe1\1\xff"}, "not an SPDM 1.1"),
        ({"answer": b"\x12\x60\0\0"}, "not an SPDM 1.1"),
        ({"answer": b"\x11\x7f\0\0"}, "not an SPDM 1.1"),  # SPDM's ERROR
        ({"count": 3}, "another number of measurements"),
        ({"count": 5}, "another number of measurements"),
        ({"record": TWO, "count": 1}, "another number of measurements"),
        ({"record": block(1, b"x", specification=0), "count": 1}, "block is malformed"),
        ({"record": block(1, b"x", size=2), "count": 1}, "block is malformed"),
        ({"record": TWO + TWO[:55], "count": 2}, "repeated"),
        ({"record": TWO[:-1], "count": 2}, "cut short"),
        ({"record": TWO + b"\3\1", "count": 2}, "malformed"),
        ({"fields": opaque() + field(20, FWID)}, "cut short or repeated"),
        ({"fields": opaque() + b"\1"}, "cut short or repeated"),
        ({"fields": opaque() + struct.pack("<HH", 50, 1)}, "cut short or repeated"),
    ],
)
def test_layout(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=said):
        parse_report(report(KEY, **fields))


def test_layout_read() -> None:
    raw = report(KEY)
    parsed = parse_report(raw)
    assert parsed.blocks == BLOCKS
    assert (parsed.driver, parsed.vbios, parsed.nonce) == (DRIVER, VBIOS, NONCE)
    assert (parsed.signed, parsed.signature) == (raw[:-96], raw[-96:])
    for size in range(len(raw)):
        with pytest.raises(MalformedEvidenceError):
            parse_report(raw[:size])
    with pytest.raises(TrailingBytesError, match="1 bytes follow"):
        parse_report(raw + b"\0")
    empty = parse_report(report(KEY, record=b"", count=0, fields=b""))
    assert (empty.blocks, empty.driver, empty.vbios) == ({}, "", "00.00.00.00.00")


# ---- manifests --------------------------------------------------------------------------------


def test_measurements_against_manifests() -> None:
    assert verify(GOOD, rims=RIMS).tcb_status == "RimMatched"
    sent = json.dumps([rim.decode() for rim in RIMS]).encode()
    assert verify(GOOD, endorsements=sent).tcb_status == "RimMatched"
    for index in (0, 1, 39):
        with pytest.raises(UnknownMeasurementError, match=rf"entries \[{index}\] of 4 differ"):
            verify(GOOD, rims=manifests(change={index: [b"\xee" * 48, bytes(48)]}))
    both = manifests(change={0: [b"\xee" * 48], 39: [b"\xee" * 48]})
    with pytest.raises(UnknownMeasurementError, match=r"entries \[0, 39\]"):
        verify(GOOD, rims=both)


def test_a_measurement_that_is_missing_differs() -> None:
    rims = (sign_manifest(DRIVER, {50: [b"\1" * 48]}), RIMS[1])
    with pytest.raises(UnknownMeasurementError, match=r"entries \[50\] of 3"):
        verify(GOOD, rims=rims)


def test_nvdec0_has_a_meaning_only_while_it_is_enabled() -> None:
    rims = manifests(change={35: [b"\xee" * 48]})
    with pytest.raises(UnknownMeasurementError, match=r"entries \[35\]"):
        verify(GOOD, rims=rims)
    disabled = one(fields=opaque(nvdec0=b"\x55"))
    assert verify(disabled, rims=rims).tcb_status == "RimMatched"


def test_inactive_entries_are_not_compared() -> None:
    entries = resource(39, [b"\xee" * 48], active="False") + resource(35, [BLOCKS[36]])
    assert verify(GOOD, rims=(sign_manifest(DRIVER, entries), RIMS[1])).tcb_status == "RimMatched"
    entries = resource(39, [b"\xee" * 48], active="false") + resource(35, [BLOCKS[36]])
    with pytest.raises(UnknownMeasurementError):
        verify(GOOD, rims=(sign_manifest(DRIVER, entries), RIMS[1]))


def test_manifests_that_do_not_fit() -> None:
    driver, vbios = RIMS
    for rims, said in (
        ((driver,), f"no manifest for VBIOS {VBIOS} of GH100"),
        ((vbios,), f"no manifest for driver {DRIVER} of GH100"),
        ((driver, driver, vbios), "no manifest for driver"),
        (manifests(driver="550.90.08"), r"driver 550\.90\.07.*given: GH100 550\.90\.08"),
        (manifests(vbios="96.00.9f.00.02"), "no manifest for VBIOS"),
        ((sign_manifest(DRIVER, {39: [BLOCKS[40]]}, product="GB100"), vbios), "given: GB100"),
        ((driver, sign_manifest(VBIOS, {39: [BLOCKS[40]]})), "contradict"),
    ):
        with pytest.raises(MissingCollateralError, match=said):
            verify(GOOD, rims=rims)
    with pytest.raises(UnknownMeasurementError, match=r"entries \[\] of 0"):
        verify(GOOD, rims=(sign_manifest(DRIVER, {}), sign_manifest(VBIOS, {})))
    for sent in (b"{", b"{}", b"[1]", b"[" * 100_000, b"\xff"):
        with pytest.raises(MissingCollateralError, match="JSON list"):
            verify(GOOD, endorsements=sent)


def test_versions_in_a_report_do_not_steer_a_terminal() -> None:
    data = one(fields=opaque(driver="\x1b[2J"))
    with pytest.raises(MissingCollateralError, match=r"driver .x1b\[2J of GH100"):
        verify(data, rims=RIMS)
    with pytest.raises(TcbOutOfDateError, match=r"has version .x1b\[2J"):
        verify(data)


def test_manifests_signed_by_somebody_else() -> None:
    forged = sign_manifest(DRIVER, {35: [BLOCKS[36]], 39: [BLOCKS[40]]}, vendor=Authority())
    with pytest.raises(BadChainError, match="pinned root"):
        verify(GOOD, rims=(forged, RIMS[1]))


def test_gpu_beside_an_enclave_answers_its_own_nonce() -> None:
    """The whole of a party: an enclave that vouches for its GPU, and a nonce for each."""
    kinds = {kind: kind_policy(kind) for kind in (Kind.TDX, Kind.NVIDIA_GPU)}
    accepted = AppraisalPolicy(kinds=kinds, gpu_required=True)

    def party(nonce: bytes, gpu: bytes = GOOD) -> Any:
        return verify_party(
            Enclave(NvidiaVerifier(RIMS, roots=VENDOR.roots, rim_roots=VENDOR.roots)),
            Evidence(Kind.TDX, b"r" * 64, gpu=gpu),
            report_data=b"r" * 64,
            gpu_nonce=nonce,
            policy=accepted,
            at=day("2025-01-01"),
        )

    assert [gpu.platform for gpu in party(NONCE).gpu] == ["48b02df44660da06"]
    assert len(party(NONCE, json.dumps(four()).encode()).gpu) == 4
    with pytest.raises(WrongReportDataError):
        party(bytes(32))
