"""Evidence as tools and clouds hand it out: in hex, base64 or JSON.

For files of people only; what a peer sends has one spelling. A wrapping is never trusted, and need
not be: what is inside is appraised, and carries its maker's signature. What looks like evidence and
is none is refused by its name.

Read are, also inside each other:

- hex, with or without 0x; base64, also its URL-safe alphabet; line breaks in both;
- a JSON text, or a JSON array of bytes;
- requests of Google Cloud Attestation (``tdCcel.tdQuote``, ``sevSnpAttestation.report`` with
  ``auxBlob``) and of Microsoft Azure Attestation (``quote``; ``report`` with ``SnpReport`` and
  ``VcekCertChain``), and what Azure's metadata service answers (``quote``);
- an extended SEV-SNP report: the host's table of certificates follows it.

Azure's vTPM evidence is not: its report speaks for the paravisor only. The guest's code is in the
vTPM's registers, and the challenge in the vTPM's own quote.

Trust domain: whoever appraises an enclave.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping

from sealtune.attest.errors import MalformedEvidenceError
from sealtune.attest.evidence import MAGIC, Kind
from sealtune.attest.platforms.sev_snp.certificates import from_table
from sealtune.attest.platforms.sev_snp.report import REPORT_SIZE
from sealtune.job.printable import printable

MAX_DEPTH = 6  # wrappings inside each other; MAA's SEV-SNP request has four
_HEX = re.compile(rb"(?:0[xX])?(?:[0-9a-fA-F]{2})+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_QUOTES = ("quote", "tdQuote", "td_quote")
_REPORTS = ("report", "SnpReport")
_INNER = ("tdCcel", "td_ccel", "sevSnpAttestation", "sev_snp_attestation")
_FIELDS = {"tdQuoteBody", "signedData", "guestSvn", "guest_svn", "measurement"}
_PARAVISOR = (
    "Azure's vTPM evidence: the report in it speaks for Azure's paravisor, not for the guest; the "
    "guest's code and challenge are in the vTPM's own quote, which is not appraised here"
)
_NAMES: tuple[tuple[bytes, str], ...] = (
    (b"HCLA", _PARAVISOR),
    (b"\xffTCG", "a quote of a TPM: it shows no TEE"),
    (b"-----BEGIN", "PEM: give certificates as collateral"),
    (b"<", "XML: give manifests of a GPU as collateral"),
    (b"\x84\x44\xa1\x01", "an attestation document of AWS Nitro, which is not supported"),
)


def unwrap(raw: bytes, kind: Kind) -> tuple[bytes, bytes]:
    """The evidence in the bytes of a file, and the certificates that came with it.

    Bytes that are in no wrapping known here are returned as they are.

    Raises:
        MalformedEvidenceError: something else, which the message names.
    """
    sent = b""
    for _ in range(MAX_DEPTH):
        _refuse_by_name(raw)
        inner = _inside(raw, kind)
        if inner is None:
            return raw, sent
        raw, certificates = inner
        sent = certificates or sent
    raise MalformedEvidenceError(f"more than {MAX_DEPTH} wrappings around the evidence")


def _refuse_by_name(raw: bytes) -> None:
    text = raw.lstrip()
    for start, name in _NAMES:
        if text.startswith(start):
            raise MalformedEvidenceError(f"this is {name}")
    if _JWT.fullmatch(text.rstrip()):
        raise MalformedEvidenceError(
            "this is an attestation token (JWT), the verdict of a service; give the quote or report"
        )
    if len(raw) == 1024 and raw[0] == 0x81:
        raise MalformedEvidenceError(
            "this is a TDREPORT, which only its own machine can verify; have it turned into a quote"
        )


def _inside(raw: bytes, kind: Kind) -> tuple[bytes, bytes] | None:
    """What one wrapping holds; None where there is none."""
    if raw.startswith(MAGIC) or not raw.isascii():
        return _extended(raw, kind)
    text = b"".join(raw.split())
    if _HEX.fullmatch(text):
        return bytes.fromhex(text[2:].decode() if text[1:2] in b"xX" else text.decode()), b""
    if text[:1] in (b"{", b"[", b'"') and not (kind is Kind.NVIDIA_GPU and text[:1] == b"["):
        return _from_json(raw, kind)
    if re.fullmatch(rb"(?:0[xX])?[0-9a-fA-F]+", text):
        raise MalformedEvidenceError("this is hex with an odd number of digits: one is missing")
    if _BASE64.fullmatch(text):
        return _unbase64(text), b""
    return _extended(raw, kind)


def _extended(raw: bytes, kind: Kind) -> tuple[bytes, bytes] | None:
    if kind is not Kind.SEV_SNP or len(raw) <= REPORT_SIZE:
        return None
    certificates = from_table(raw[REPORT_SIZE:])
    return (raw[:REPORT_SIZE], certificates) if certificates else None


def _unbase64(text: bytes) -> bytes:
    plain = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise MalformedEvidenceError("text that is neither hex nor whole base64") from error


def _from_json(raw: bytes, kind: Kind) -> tuple[bytes, bytes]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError("this is JSON that cannot be read") from error
    if not isinstance(value, dict):
        return _bytes(value), b""
    inner = [value[name] for name in _INNER if isinstance(value.get(name), dict)]
    if len(inner) == 1:
        value = inner[0]
    pcrs = any(isinstance(part, dict) and "pcrs" in part for part in value.values())
    if pcrs or "hcl_report" in value or "tpm_quote" in value:
        raise MalformedEvidenceError(f"this is {_PARAVISOR}")
    names = _REPORTS if kind is Kind.SEV_SNP else _QUOTES
    found = [value[name] for name in names if name in value]
    if _FIELDS & value.keys() or any(isinstance(part, dict) for part in found):
        raise MalformedEvidenceError(
            "this is a quote or report taken apart into fields of JSON, which nobody signed in "
            "that form; have the tool write it raw"
        )
    if len(found) != 1:
        keys = printable(", ".join(sorted(value)), 100)
        raise MalformedEvidenceError(
            f"this is JSON with the keys {keys}; {kind} evidence is read from one of "
            f"{', '.join(names)}"
        )
    return _bytes(found[0]), _sent(value)


def _bytes(value: object) -> bytes:
    """A JSON text, or an array of bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, list) and all(type(one) is int and 0 <= one < 256 for one in value):
        return bytes(value)
    raise MalformedEvidenceError("this is JSON that holds neither a text nor an array of bytes")


def _sent(value: Mapping[str, object]) -> bytes:
    """AMD's certificates beside a report, in PEM."""
    for name in ("auxBlob", "aux_blob", "VcekCertChain"):
        if isinstance(value.get(name), str):
            raw = _unbase64(b"".join(_bytes(value[name]).split()))
            return raw if name == "VcekCertChain" else from_table(raw)
    return b""
