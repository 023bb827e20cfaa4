"""NVIDIA GPUs: SPDM measurement reports, verified on `cryptography` alone.

Source: DMTF DSP0274 (SPDM 1.1), GET_MEASUREMENTS and MEASUREMENTS; NVIDIA's public attestation
samples for the opaque fields. A report is the 37-byte request and the response to it:

    0x11 0xE0 param1 param2 | nonce 32 | slot u8
    0x11 0x60 param1 slot | blocks u8 | record length u24 | record | GPU's nonce 32 |
    opaque length u16 | opaque | signature 96 (P-384, r and s big-endian) over all before it

The evidence is NVIDIA's JSON: a list of ``{"arch", "certificate", "evidence", "nonce"}``, one per
GPU, certificate chain and report in base64, nonce in hex. All bytes count: no other keys, no other
spelling. The *measurement* of a GPU is SHA-384 over its measurement record. Where NVIDIA's
reference integrity manifests (RIM) of driver and VBIOS are given, every active entry is compared.

Only Hopper has been tested, so only Hopper is accepted. Revocation (OCSP) is not checked.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from sealtune.attest.errors import (
    BadChainError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    TrailingBytesError,
    UnknownMeasurementError,
    WrongReportDataError,
)
from sealtune.attest.evidence import MAX_PART, Claims, Evidence, Kind
from sealtune.attest.platforms.certs import (
    extension,
    load_pem_chain,
    reading,
    sha384,
    verify_chain,
    verify_p384,
)
from sealtune.attest.platforms.nvidia_gpu.rim import RIM_ROOTS, Rim, load_rim
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.job.printable import printable

# SHA-256 of "NVIDIA Device Identity CA".
DEVICE_ROOTS = frozenset(
    {bytes.fromhex("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48")}
)
MAX_GPUS = 16
REQUEST = 37
SIGNATURE = 96
CHIPS = {"HOPPER": "GH100"}
OID_FWID = "2.23.133.5.4.1"  # TCG DICE TcbInfo
OID_DEVICE = "1.3.6.1.4.1.412.274.1"  # DMTF device info, such as NVIDIA:GH100:<id>
# Opaque fields that are looked at.
DRIVER, VBIOS, NVDEC0, FWID = 3, 6, 11, 20
NVDEC0_DISABLED = b"\x55"
NVDEC0_ENTRY = 35  # of a RIM; has no meaning while NVDEC0 is disabled


@dataclass(frozen=True)
class Report:
    """One GPU's report.

    Attributes:
        nonce: 32 bytes that the report was asked for with.
        record: the measurement record as signed.
        blocks: measurement by index, from 1.
        opaque: NVIDIA's fields by number.
        signed: all bytes but the signature.
        signature: 96 bytes.
    """

    nonce: bytes
    record: bytes
    blocks: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes

    @property
    def driver(self) -> str:
        """Driver version, such as 550.90.07."""
        return self.opaque.get(DRIVER, b"").rstrip(b"\0").decode("ascii", "replace")

    @property
    def vbios(self) -> str:
        """VBIOS version, such as 96.00.9f.00.01."""
        raw = self.opaque.get(VBIOS, b"").ljust(8, b"\0")
        return ".".join(f"{byte:02x}" for byte in (*raw[3::-1], raw[4]))


def parse_report(raw: bytes) -> Report:
    """Parse request and response.

    Raises:
        MalformedEvidenceError, TrailingBytesError: not such a report.
    """
    if len(raw) < REQUEST + 8:
        raise MalformedEvidenceError(f"SPDM report of {len(raw)} bytes is cut short")
    if raw[:2] != b"\x11\xe0" or raw[REQUEST : REQUEST + 2] != b"\x11\x60":
        raise MalformedEvidenceError("not an SPDM 1.1 measurements report")
    at = REQUEST + 8
    count, size = raw[REQUEST + 4], int.from_bytes(raw[REQUEST + 5 : at], "little")
    record = raw[at : at + size]
    at += size + 32  # the GPU's own nonce only salts the signature
    opaque_size = int.from_bytes(raw[at : at + 2], "little")
    opaque = raw[at + 2 : at + 2 + opaque_size]
    end = at + 2 + opaque_size
    if len(raw) < end + SIGNATURE:
        raise MalformedEvidenceError(f"SPDM report of {len(raw)} bytes is cut short")
    if len(raw) > end + SIGNATURE:
        raise TrailingBytesError(f"{len(raw) - end - SIGNATURE} bytes follow the SPDM report")
    blocks = _blocks(record)
    if len(blocks) != count:
        raise MalformedEvidenceError("SPDM report has another number of measurements than stated")
    return Report(raw[4:36], record, blocks, _opaque(opaque), raw[:end], raw[end:])


def _blocks(record: bytes) -> dict[int, bytes]:
    blocks: dict[int, bytes] = {}
    at = 0
    while at < len(record):
        head = record[at : at + 7]
        size = int.from_bytes(head[2:4], "little")
        value = record[at + 7 : at + 4 + size]
        # DMTF measurement: index, specification 1, size, then type, size of value, value.
        if len(head) < 7 or head[1] != 1 or int.from_bytes(head[5:7], "little") != size - 3:
            raise MalformedEvidenceError("SPDM measurement block is malformed")
        if len(value) != size - 3 or head[0] in blocks:
            raise MalformedEvidenceError("SPDM measurement block is cut short or repeated")
        blocks[head[0]] = value
        at += 4 + size
    return blocks


def _opaque(raw: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        number, size = (int.from_bytes(raw[at + i : at + i + 2], "little") for i in (0, 2))
        value = raw[at + 4 : at + 4 + size]
        if len(value) != size or at + 4 > len(raw) or number in fields:
            raise MalformedEvidenceError("opaque field of an SPDM report is cut short or repeated")
        fields[number] = value
        at += 4 + size
    return fields


@dataclass(frozen=True)
class _Item:
    """One GPU of the evidence."""

    arch: str
    nonce: str
    report: Report
    chain: list[x509.Certificate]


def _items(data: bytes) -> list[_Item]:
    if len(data) > MAX_PART:
        raise OversizeEvidenceError(f"GPU evidence of {len(data)} bytes, limit {MAX_PART}")
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError("GPU evidence is not JSON") from error
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_GPUS:
        raise MalformedEvidenceError(f"GPU evidence is not a list of 1 to {MAX_GPUS} GPUs")
    return [_item(entry) for entry in entries]


def _item(entry: object) -> _Item:
    keys = {"arch", "certificate", "evidence", "nonce"}
    if not isinstance(entry, dict) or set(entry) != keys:
        raise MalformedEvidenceError(f"GPU evidence needs exactly the keys {sorted(keys)}")
    if not all(isinstance(value, str) for value in entry.values()):
        raise MalformedEvidenceError("GPU evidence has a value that is not text")
    if entry["arch"] not in CHIPS:
        raise MalformedEvidenceError(f"GPU architecture {entry['arch'][:40]!r} is not supported")
    return _Item(
        entry["arch"],
        entry["nonce"],
        parse_report(_unbase64(entry["evidence"])),
        load_pem_chain(_unbase64(entry["certificate"])),
    )


def _unbase64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedEvidenceError("GPU evidence is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise MalformedEvidenceError("GPU evidence is not canonical base64")
    return raw


def reported_nonce(data: bytes) -> bytes:
    """The nonce that GPU evidence was asked for with; not verified."""
    return _items(data)[0].report.nonce


class NvidiaVerifier:
    """Appraises reports of one or several GPUs.

    Args:
        rims: reference integrity manifests of driver and VBIOS, XML; left out, those that came
            with the evidence (a JSON list of XML texts) are used.
        roots: SHA-256 digests of accepted device roots; NVIDIA's unless a test brings its own.
        rim_roots: the same for the keys that sign manifests.
    """

    def __init__(
        self,
        rims: Sequence[bytes] = (),
        *,
        roots: Collection[bytes] = DEVICE_ROOTS,
        rim_roots: Collection[bytes] = RIM_ROOTS,
    ) -> None:
        self._rims = tuple(rims)
        self._roots = roots
        self._rim_roots = rim_roots

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`; here ``report_data`` is the 32-byte nonce.

        Returns:
            The claims of the first GPU; those of the others are in its ``gpu``.
        """
        kind_policy = policy.for_kind(Kind.NVIDIA_GPU)
        if evidence.kind is not Kind.NVIDIA_GPU:
            raise MalformedEvidenceError(f"{evidence.kind} evidence given to the GPU verifier")
        rims = [
            load_rim(raw, roots=self._rim_roots, at=at)
            for raw in self._rims or _rims_of(evidence.endorsements)
        ]
        claims = [
            self._one(item, report_data, rims, kind_policy, at) for item in _items(evidence.data)
        ]
        if len({claim.platform for claim in claims}) != len(claims):
            raise MalformedEvidenceError("GPU evidence shows one GPU twice")
        for claim in claims:
            kind_policy.check(claim)
        return claims[0].model_copy(update={"gpu": tuple(claims[1:])})

    def _one(
        self, item: _Item, nonce: bytes, rims: Sequence[Rim], policy: KindPolicy, at: datetime
    ) -> Claims:
        report, leaf = item.report, item.chain[0]
        verify_chain(item.chain, roots=policy.roots(self._roots), at=at, what="GPU")
        r, s = (int.from_bytes(report.signature[i : i + 48], "big") for i in (0, 48))
        verify_p384(leaf, r, s, report.signed, "GPU")
        if report.nonce != nonce or item.nonce != nonce.hex():
            raise WrongReportDataError("the GPU's report was made for another nonce")
        chip, device = _device(leaf)
        if chip != CHIPS[item.arch]:
            raise BadChainError(
                f"certificate of a {printable(chip, 40)} in evidence of a {item.arch} GPU"
            )
        firmware = report.opaque.get(FWID, b"")
        if len(firmware) != 48 or firmware not in (extension(leaf, OID_FWID) or b""):
            raise BadChainError("the GPU's certificate is of another firmware than its report")
        if rims:
            compare(report, rims, chip)
        return Claims(
            kind=Kind.NVIDIA_GPU,
            confidential=policy.confidential,
            measurement=sha384(report.record).hex(),
            tcb_status="RimMatched" if rims else "Unchecked",
            debug=False,
            report_data=nonce.hex(),
            platform=device,
            verified_at=at,
            firmware={"driver": report.driver, "vbios": report.vbios},
            details={
                "chip": chip,
                "driver": report.driver,
                "VBIOS": report.vbios,
                "firmware id": firmware.hex(),
            },
        )


def _rims_of(endorsements: bytes) -> list[bytes]:
    if not endorsements:
        return []
    try:
        texts = json.loads(endorsements)
    except (ValueError, RecursionError) as error:
        raise MissingCollateralError("manifests of the GPU are not a JSON list") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise MissingCollateralError("manifests of the GPU are not a JSON list of texts")
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _device(leaf: x509.Certificate) -> tuple[str, str]:
    """Chip name and device id (hex) from the certificate's alternative name."""
    with reading("the GPU's certificate names no device"):
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        others = names.get_values_for_type(x509.OtherName)
    for name in others:
        parts = name.value[2:].decode("ascii", "replace").split(":")  # a short UTF8String
        if name.type_id.dotted_string == OID_DEVICE and len(parts) == 3 and parts[0] == "NVIDIA":
            return parts[1], parts[2].lower()
    raise BadChainError("the GPU's certificate names no NVIDIA device")


def compare(report: Report, rims: Sequence[Rim], chip: str) -> None:
    """Hold a report against the manifests of its driver and VBIOS.

    Raises:
        MissingCollateralError: a manifest is lacking, or of another version or chip.
        UnknownMeasurementError: a measurement is none of the published ones.
    """
    expected: dict[int, tuple[bytes, ...]] = {}
    for what, version in (("driver", report.driver), ("VBIOS", report.vbios)):
        found = [rim for rim in rims if rim.version == version.lower() and rim.product == chip]
        if len(found) != 1:
            have = printable(", ".join(f"{rim.product} {rim.version}" for rim in rims))
            raise MissingCollateralError(
                f"no manifest for {what} {printable(version, 40)} of {chip} (given: {have})"
            )
        if expected.keys() & found[0].values.keys():
            raise MissingCollateralError("manifests of driver and VBIOS contradict each other")
        expected |= found[0].values
    if report.opaque.get(NVDEC0) == NVDEC0_DISABLED:
        expected.pop(NVDEC0_ENTRY, None)
    # A manifest counts from 0, SPDM from 1.
    wrong = [i for i, values in expected.items() if report.blocks.get(i + 1) not in values]
    if wrong or not expected:
        raise UnknownMeasurementError(
            f"the GPU runs firmware that NVIDIA did not publish: entries {sorted(wrong)[:20]} of "
            f"{len(expected)} differ"
        )
