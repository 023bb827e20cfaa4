"""Evidence in the wrappings of tools and clouds: read, or named for what it is."""

from __future__ import annotations

import base64
import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest

from sealtune.attest import AppraisalPolicy, Evidence, Kind
from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import (
    MalformedEvidenceError,
    MissingCollateralError,
    TrailingBytesError,
)
from sealtune.attest.files import appraise, load_evidence
from sealtune.attest.platforms.certs import load_pem_bundle
from sealtune.attest.platforms.sev_snp.certificates import from_file, from_table
from sealtune.attest.platforms.sev_snp.report import REPORT_SIZE
from sealtune.attest.wrapping import unwrap
from tests.attest import amd, gpu
from tests.attest.public import SERVER, day, needs_fixtures, policy, read, recorded_file

QUOTE = struct.pack("<HHI", 4, 2, 0x81) + bytes(range(256)) * 4
KEY, CHAIN = amd.certificate()
REPORT = amd.report(KEY)


def lines(text: bytes, width: int = 76, end: bytes = b"\n") -> bytes:
    return b"".join(text[at : at + width] + end for at in range(0, len(text), width))


def standard(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def url_safe(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


TEXTS = {
    "raw": lambda raw: raw,
    "hex": lambda raw: raw.hex().encode(),
    "hex in lines": lambda raw: lines(raw.hex().upper().encode(), end=b"\r\n"),
    "0x": lambda raw: b"0x" + raw.hex().encode() + b"\n",
    "base64": lambda raw: standard(raw).encode(),
    "base64 in lines": lambda raw: b"\n" + lines(standard(raw).encode()),
    "base64 without padding": lambda raw: standard(raw).rstrip("=").encode(),
    "url-safe": base64.urlsafe_b64encode,
    "url-safe without padding": lambda raw: url_safe(raw).encode(),
    "JSON text": lambda raw: as_json(standard(raw)),
    "JSON bytes": lambda raw: as_json(list(raw)),
    "base64 of hex": lambda raw: standard(raw.hex().encode()).encode(),
}


@pytest.mark.parametrize("form", TEXTS)
def test_texts(form: str) -> None:
    for raw, kind in ((QUOTE, Kind.TDX), (QUOTE + b"\1", Kind.SGX), (REPORT, Kind.SEV_SNP)):
        assert unwrap(TEXTS[form](raw), kind) == (raw, b"")
    own = Evidence(Kind.TDX, QUOTE, b"collateral").encode()
    assert load_evidence(TEXTS[form](own), Kind.TDX) == Evidence(Kind.TDX, QUOTE, b"collateral")


def table(chain: bytes, *, skip: int | None = None, cut: int = 0) -> bytes:
    """A host's certificate table around a chain, root first."""
    names = [
        "63da758d-e664-4564-adc5-f4b93be8accd",
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    ]
    ders = [
        base64.b64decode(part.split(b"-----")[-1])
        for part in chain.split(b"-----END CERTIFICATE-----\n")[:-1]
    ]
    head, body, at = b"", b"", 24 * 4
    for index, (name, der) in reversed(list(enumerate(zip(names, ders, strict=True)))):
        if index != skip:
            head += uuid.UUID(name).bytes_le + struct.pack("<II", at + len(body), len(der))
            body += der
    return (head.ljust(at, b"\0") + body)[: len(head.ljust(at, b"\0") + body) - cut]


QUOTES = {
    "GCP": {"challenge": "c", "tdCcel": {"tdQuote": standard(QUOTE), "ccelData": "AAAA"}},
    "GCP in Python": {"td_ccel": {"td_quote": standard(QUOTE)}},
    "MAA": {"quote": url_safe(QUOTE), "runtimeData": {"data": "e30", "dataType": "JSON"}},
    "Azure's metadata service": {"quote": url_safe(QUOTE)},
    "bytes": {"quote": list(QUOTE)},
}
AUX = standard(table(CHAIN))
MAA = {"SnpReport": url_safe(REPORT), "VcekCertChain": url_safe(CHAIN)}
REPORTS: dict[str, tuple[dict[str, Any], bool]] = {
    "GCP": ({"sevSnpAttestation": {"report": standard(REPORT), "auxBlob": AUX}}, True),
    "GCP, snake": ({"sev_snp_attestation": {"report": standard(REPORT), "aux_blob": AUX}}, True),
    "without certificates": ({"sevSnpAttestation": {"report": standard(REPORT)}}, False),
    "MAA": ({"report": url_safe(as_json(MAA)), "runtimeData": {"data": "e30"}}, True),
    "MAA, inner": (MAA, True),
}


@pytest.mark.parametrize("form", QUOTES)
def test_quotes_in_json_of_clouds(form: str) -> None:
    assert unwrap(as_json(QUOTES[form]), Kind.TDX) == (QUOTE, b"")
    with pytest.raises(MalformedEvidenceError, match="sev-snp evidence is read from one of report"):
        unwrap(as_json(QUOTES[form]), Kind.SEV_SNP)


@pytest.mark.parametrize("form", REPORTS)
def test_reports_in_json_of_clouds(form: str) -> None:
    value, with_chain = REPORTS[form]
    evidence = load_evidence(as_json(value), Kind.SEV_SNP)
    assert evidence.data == REPORT
    assert bool(evidence.endorsements) is with_chain
    claims = amd.verify(evidence.data, evidence.endorsements or CHAIN)
    assert claims == amd.verify(REPORT, CHAIN)


def test_extended_report() -> None:
    """The host's table of certificates follows; anything else that follows is refused."""
    data, sent = unwrap(REPORT + table(CHAIN), Kind.SEV_SNP)
    assert data == REPORT
    assert load_pem_bundle(sent) == load_pem_bundle(CHAIN)
    for rest in (b"\0", table(CHAIN, skip=1), table(CHAIN, cut=1), bytes(200)):
        evidence = load_evidence(REPORT + rest, Kind.SEV_SNP)
        with pytest.raises(TrailingBytesError):
            amd.verify(evidence.data, CHAIN)
    assert from_table(b"") == b""
    # of another kind it is no report, whatever it looks like
    whole = REPORT + table(CHAIN)
    assert unwrap(whole, Kind.TDX) == (whole, b"")


def test_evidence_of_gpus_is_json_itself() -> None:
    data = gpu.one()
    for raw in (data, b"\n " + data, standard(data).encode(), b"0x" + data.hex().encode()):
        evidence = load_evidence(raw, Kind.NVIDIA_GPU)
        assert gpu.verify(evidence.data) == gpu.verify(data)
    with pytest.raises(MalformedEvidenceError, match="nvidia-gpu evidence is read from"):
        load_evidence(as_json({"evidence": "x"}), Kind.NVIDIA_GPU)


NAMED: dict[str, tuple[bytes, Kind, str]] = {
    "HCL report": (b"HCLA\2\0\0\0" + bytes(2592), Kind.SEV_SNP, "vTPM"),
    "HCL report in JSON": (as_json({"report": standard(b"HCLA" + bytes(9))}), Kind.SEV_SNP, "vTPM"),
    "az-snp-vtpm": (
        as_json({"version": 1, "hcl_report": "SENM", "tpm_quote": {"pcrs": []}}),
        Kind.SEV_SNP,
        "paravisor",
    ),
    "az-tdx-vtpm": (
        as_json({"td_quote": standard(QUOTE), "tpm_quote": {"pcrs": []}}),
        Kind.TDX,
        "paravisor",
    ),
    "az-snp-vtpm, old": (
        as_json({"report": list(REPORT), "quote": {"pcrs": [], "message": []}}),
        Kind.SEV_SNP,
        "vTPM",
    ),
    "TPM quote": (b"\xffTCG\x80\x18" + bytes(100), Kind.TDX, "a TPM"),
    "token": (b" eyJhbGciOi.eyJpc3Mi.AAAA_-\n", Kind.TDX, "attestation token"),
    "certificates": (CHAIN, Kind.SEV_SNP, "collateral"),
    "manifest": (b'<?xml version="1.0"?><x/>', Kind.NVIDIA_GPU, "manifests"),
    "Nitro": (b"\x84\x44\xa1\x01\x38\x22" + bytes(80), Kind.TDX, "Nitro"),
    "TDREPORT": (b"\x81" + b"\xee" * 1023, Kind.TDX, "turned into a quote"),
    "go-tdx-guest": (as_json({"header": {}, "tdQuoteBody": {}}), Kind.TDX, "taken apart"),
    "go-sev-guest": (as_json({"report": {"guestSvn": 1}}), Kind.SEV_SNP, "taken apart"),
    "snpguest": (as_json({"version": 2, "guest_svn": 1}), Kind.SEV_SNP, "taken apart"),
    "other JSON": (as_json({"a\x1b[2J": 1, "b": 2}), Kind.TDX, r"keys a\\x1b\[2J, b; tdx"),
    "two": (as_json({"quote": "AA", "td_quote": "AA"}), Kind.TDX, "read from one of"),
    "number": (as_json({"quote": 7}), Kind.TDX, "neither a text nor an array"),
    "no bytes": (as_json([1, 256]), Kind.TDX, "neither a text nor an array"),
    "booleans": (as_json([True]), Kind.TDX, "neither a text nor an array"),
    "broken JSON": (b'{"quote": "', Kind.TDX, "cannot be read"),
    "nested JSON": (b'{"a":' * 100_000, Kind.TDX, "cannot be read"),
    "odd hex": (b"0x" + QUOTE.hex().encode()[:-1], Kind.TDX, "odd number of digits"),
    "cut base64": (b"AAAA_", Kind.TDX, "nor whole base64"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_looks_like_evidence_is_named(name: str) -> None:
    raw, kind, said = NAMED[name]
    with pytest.raises(MalformedEvidenceError, match=said):
        load_evidence(raw, kind)


def test_other_bytes_are_left_as_they_are() -> None:
    """Neither the size of a TDREPORT nor its first byte makes one."""
    for raw in (QUOTE[:1024].ljust(1024, b"\xff"), b"\x81" + b"\xee" * 1022, b"\x81" * 1025, b""):
        assert unwrap(raw, Kind.TDX) == (raw, b"")


def test_wrappings_have_an_end() -> None:
    raw = b"\xfe" * 30
    for _ in range(5):
        raw = standard(raw).encode()
    assert unwrap(raw, Kind.TDX)[0] == b"\xfe" * 30
    with pytest.raises(MalformedEvidenceError, match="more than 6 wrappings"):
        unwrap(standard(raw).encode(), Kind.TDX)


def test_what_a_peer_sends_has_one_spelling() -> None:
    for raw in (standard(REPORT).encode(), REPORT.hex().encode(), REPORT + table(CHAIN)):
        with pytest.raises(MalformedEvidenceError):
            amd.verify(raw, CHAIN, report_data=REPORT[0x50:0x90])


def test_certificate_files() -> None:
    leaf, middle, root = CHAIN.split(b"-----END CERTIFICATE-----\n")[:3]
    azure = as_json(
        {
            "vcekCert": (leaf + b"-----END CERTIFICATE-----").decode(),
            "tcbm": "DB18000000000004",
            "certificateChain": (
                middle + b"-----END CERTIFICATE-----\n" + root + b"-----END CERTIFICATE-----"
            ).decode(),
        }
    )
    der = base64.b64decode(leaf.split(b"-----")[-1])
    for raw, count in ((azure, 3), (der, 1), (b"subject=x\n" + CHAIN + b"\n\n", 3)):
        assert load_pem_bundle(from_file(raw)) == load_pem_bundle(CHAIN)[:count]
    for wrong in (b"{", b'{"vcekCert": "x"}', as_json({"vcekCert": 1, "certificateChain": 2})):
        with pytest.raises(MissingCollateralError, match="vcekCert and certificateChain"):
            from_file(wrong)


# ---- recorded ---------------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize("form", [form for form in TEXTS if form != "raw"])
def test_recorded_quote_in_every_wrapping(form: str, tmp_path: Path) -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    path = tmp_path / "quote"
    path.write_bytes(TEXTS[form](read("dcap-qvl/tdx_quote")))
    collateral = [recorded_file("dcap-qvl/tdx_quote_collateral.json")]
    accepted = policy(Kind.TDX, allow=SERVER)
    claims = appraise(path, Kind.TDX, collateral, accepted, day("2025-07-01"))
    assert claims.tcb_status == "UpToDate"


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("az-snp-vtpm/evidence-genoa.json", Kind.SEV_SNP),
        ("az-snp-vtpm/evidence-v0.json", Kind.SEV_SNP),
        ("az-snp-vtpm/evidence-v1.json", Kind.SEV_SNP),
        ("az-snp-vtpm/evidence-v2.json", Kind.SEV_SNP),
        ("az-snp-vtpm/hcl-report.bin", Kind.SEV_SNP),
        ("az-tdx-vtpm/evidence-v0.json", Kind.TDX),
        ("az-tdx-vtpm/evidence-v1.json", Kind.TDX),
        ("az-tdx-vtpm/hcl-report.bin", Kind.TDX),
        ("tdx/tpm_evidence.json", Kind.TDX),
    ],
)
def test_recorded_vtpm_evidence_is_named(name: str, kind: Kind) -> None:
    with pytest.raises(MalformedEvidenceError, match="paravisor"):
        load_evidence(read(f"trustee/{name}"), kind)


@needs_fixtures
def test_recorded_report_with_its_chain_in_any_form() -> None:
    """VCEK in DER, chain in PEM behind a line of text: as Appraiser gets them from files."""
    report = read("virtee-sev/report_milan.hex")
    files = (b"# AMD\n" + read("virtee-sev/cert_chain_milan"), read("virtee-sev/vcek_milan.der"))
    accepted: AppraisalPolicy = policy(
        Kind.SEV_SNP, allow=("smt",), tcb_statuses=("Unchecked",), measurements="any"
    )
    claims = Appraiser({Kind.SEV_SNP: files}).verify(
        Evidence(Kind.SEV_SNP, report[:REPORT_SIZE]),
        report_data=report[0x50:0x90],
        policy=accepted,
        at=day("2025-01-01"),
    )
    assert claims.details["product"] == "Milan"
