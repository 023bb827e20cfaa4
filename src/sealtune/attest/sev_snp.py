"""AMD SEV-SNP: attestation reports, verified on `cryptography` alone.

Source: AMD SEV Secure Nested Paging Firmware ABI (56860), table "ATTESTATION_REPORT"; AMD Versioned
Chip Endorsement Key certificate and KDS interface (57230).

A report is 1184 bytes, little-endian; the chip signs bytes 0 to 0x29F with its VCEK, or with a VLEK
that a cloud provider loaded (ECDSA P-384, SHA-384, r and s little-endian in 72 bytes each). The
endorsements are PEM: the VCEK or VLEK, then AMD's intermediate (ASK or ASVK), then its root (ARK),
which must be one of those pinned here.

AMD gives no verdict on a platform's firmware, so the policy states the smallest versions that are
accepted (`min_tcb`); without them the status is "Unchecked".

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from sealtune.attest.certs import (
    common_name,
    extension,
    load_pem_chain,
    verify_chain,
    verify_p384,
)
from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    DebugEnclaveError,
    GuestPolicyError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    TcbOutOfDateError,
    TrailingBytesError,
    WrongReportDataError,
)
from sealtune.attest.evidence import MAX_PART, Claims, Evidence, Kind
from sealtune.attest.policy import AppraisalPolicy, KindPolicy

# SHA-256 of the root certificates "ARK-Milan", "ARK-Genoa", "ARK-Turin" as AMD's KDS serves them.
AMD_ROOTS = frozenset(
    bytes.fromhex(digest)
    for digest in (
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    )
)
REPORT_SIZE = 0x4A0
SIGNED = 0x2A0
OID = "1.3.6.1.4.1.3704.1"
# Names of the parts of a TCB version, their byte in a report and their extension in a VCEK.
PARTS = {"bootloader": (0, "3.1"), "tee": (1, "3.2"), "snp": (6, "3.3"), "microcode": (7, "3.8")}
TURIN_PARTS = {
    "fmc": (0, "3.9"),
    "bootloader": (1, "3.1"),
    "tee": (2, "3.2"),
    "snp": (3, "3.3"),
    "microcode": (7, "3.8"),
}
POLICY_RESERVED_ONE, POLICY_MIGRATE, POLICY_DEBUG = 1 << 17, 1 << 18, 1 << 19
PLATFORM_SMT = 1 << 0
SIGNED_BY_VCEK, SIGNED_BY_VLEK = 0, 1
_HEAD = struct.Struct("<IIQ16s16sIIQQI4s")  # version ... author key and signing key flags


@dataclass(frozen=True)
class Report:
    """The fields of a report that are looked at; names as in AMD's table."""

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    vmpl: int
    platform_info: int
    signing_key: int

    @property
    def report_data(self) -> bytes:
        """64 bytes chosen by the guest."""
        return self.raw[0x50:0x90]

    @property
    def measurement(self) -> bytes:
        """Digest of the guest's initial memory, 48 bytes."""
        return self.raw[0x90:0xC0]

    @property
    def author_key_digest(self) -> bytes:
        """Digest of the key that signed the guest's identity block, or zeros."""
        return self.raw[0x110:0x140]

    @property
    def reported_tcb(self) -> bytes:
        """The TCB version that the signing key was derived for, 8 bytes."""
        return self.raw[0x180:0x188]

    @property
    def chip_id(self) -> bytes:
        """64 bytes, or zeros where the owner masks them."""
        return self.raw[0x1A0:0x1E0]


def parse_report(raw: bytes) -> Report:
    """Parse 1184 bytes.

    Raises:
        OversizeEvidenceError, TrailingBytesError, MalformedEvidenceError: not a report.
        GuestPolicyError, DebugEnclaveError: a guest that no policy accepts.
    """
    if len(raw) > MAX_PART:
        raise OversizeEvidenceError(f"SEV-SNP report of {len(raw)} bytes")
    if len(raw) > REPORT_SIZE:
        raise TrailingBytesError(f"{len(raw) - REPORT_SIZE} bytes follow the SEV-SNP report")
    if len(raw) < REPORT_SIZE:
        raise MalformedEvidenceError(f"SEV-SNP report of {len(raw)} bytes, not {REPORT_SIZE}")
    version, svn, policy, _, _, vmpl, algorithm, _, platform, flags, zero = _HEAD.unpack_from(raw)
    if version not in (2, 3, 4, 5):
        raise MalformedEvidenceError(f"SEV-SNP report version {version} is not 2 to 5")
    if algorithm != 1 or any(zero):
        raise MalformedEvidenceError("SEV-SNP report is not signed with ECDSA P-384")
    if not policy & POLICY_RESERVED_ONE:
        raise MalformedEvidenceError("SEV-SNP guest policy lacks a bit that must be one")
    if policy & POLICY_DEBUG:
        raise DebugEnclaveError("the SEV-SNP guest may be debugged by the host")
    if policy & POLICY_MIGRATE:
        raise GuestPolicyError("the SEV-SNP guest may be migrated to another machine")
    return Report(raw, version, svn, policy, vmpl, platform, flags >> 2 & 7)


class SnpVerifier:
    """Appraises SEV-SNP reports.

    Args:
        certificates: VCEK or VLEK, intermediate and root in PEM; left out, those that came with
            the evidence are used.
        roots: SHA-256 digests of accepted roots; AMD's unless a test brings its own.
    """

    def __init__(
        self, certificates: bytes | None = None, *, roots: Collection[bytes] = AMD_ROOTS
    ) -> None:
        self._certificates = certificates
        self._roots = roots

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        kind_policy = policy.for_kind(Kind.SEV_SNP)
        if evidence.kind is not Kind.SEV_SNP:
            raise MalformedEvidenceError(f"{evidence.kind} evidence given to the SEV-SNP verifier")
        report = parse_report(evidence.data)
        pem = self._certificates or evidence.endorsements
        if not pem:
            raise MissingCollateralError(
                "an SEV-SNP report without its certificates cannot be appraised",
                hint="give VCEK, ASK and ARK in PEM, as AMD's KDS serves them",
            )
        if len(pem) > MAX_PART:
            raise OversizeEvidenceError(f"certificates of {len(pem)} bytes, limit {MAX_PART}")
        chain = load_pem_chain(pem, strict=False)
        verify_chain(chain, roots=self._roots, at=at, what="SEV-SNP")
        _check_key(report, chain)
        _check_signature(report, chain[0])
        if report.report_data != report_data:
            raise WrongReportDataError(
                "the SEV-SNP report was made for another nonce, job, role, key or GPU"
            )
        claims = _claims(report, chain[0], kind_policy, at)
        kind_policy.check(claims)
        return claims


def _check_key(report: Report, chain: list[x509.Certificate]) -> None:
    """The certificate is of the key that the report says it was signed with."""
    leaf = chain[0]
    expected = {SIGNED_BY_VCEK: "SEV-VCEK", SIGNED_BY_VLEK: "SEV-VLEK"}.get(report.signing_key)
    if expected is None or common_name(leaf) != expected or len(chain) != 3:
        raise BadChainError(
            f"the report says it is signed by key {report.signing_key}, the chain is of "
            f"{common_name(leaf) or 'something else'}"
        )
    for name, (byte, oid) in _parts(leaf).items():
        if _spl(leaf, oid) != report.reported_tcb[byte]:
            raise BadChainError(
                f"{name} version of the certificate is not the one that the report states"
            )
    if report.signing_key == SIGNED_BY_VCEK and any(report.chip_id):
        hardware = extension(leaf, f"{OID}.4") or b""
        hardware = hardware.removeprefix(b"\x04\x40")  # newer ones wrap it as an OCTET STRING
        # Turin has 8-byte ids: the rest of the report's field is zero.
        if len(hardware) not in (8, 64) or report.chip_id != hardware.ljust(64, b"\0"):
            raise BadChainError("the certificate is of another chip")


def _check_signature(report: Report, leaf: x509.Certificate) -> None:
    part = report.raw[SIGNED:]
    if any(part[48:72]) or any(part[120:144]) or any(part[144:]):
        raise BadSignatureError("unused bytes of the SEV-SNP signature are not zero")
    r, s = (int.from_bytes(part[at : at + 48], "little") for at in (0, 72))
    verify_p384(leaf, r, s, report.raw[:SIGNED], "SEV-SNP")


def _parts(leaf: x509.Certificate) -> dict[str, tuple[int, str]]:
    return TURIN_PARTS if product(leaf).startswith("Turin") else PARTS


def product(leaf: x509.Certificate) -> str:
    """The product name in a VCEK or VLEK, such as "Milan-B0"."""
    raw = extension(leaf, f"{OID}.2") or b""
    if len(raw) < 2 or raw[0] != 0x16 or raw[1] != len(raw) - 2:  # IA5String
        raise BadChainError("the certificate names no AMD product")
    return raw[2:].decode("ascii", "replace")


def _spl(leaf: x509.Certificate, oid: str) -> int:
    """A security patch level: a DER INTEGER of 0 to 255."""
    raw = extension(leaf, f"{OID}.{oid}") or b""
    value = int.from_bytes(raw[2:], "big")
    if len(raw) not in (3, 4) or raw[:2] != bytes((2, len(raw) - 2)) or value > 255:
        raise BadChainError(f"the certificate lacks the patch level {oid}")
    return value


def _claims(report: Report, leaf: x509.Certificate, policy: KindPolicy, at: datetime) -> Claims:
    if report.vmpl > policy.max_vmpl:
        raise GuestPolicyError(
            f"the report was asked for at VMPL {report.vmpl}; the policy accepts up to "
            f"{policy.max_vmpl}"
        )
    tcb = {name: report.reported_tcb[byte] for name, (byte, _) in _parts(leaf).items()}
    for name, least in policy.min_tcb.items():
        if tcb.get(name, -1) < least:
            raise TcbOutOfDateError(
                f"{name} of the SEV-SNP platform has version {tcb.get(name, 'none')}, the policy "
                f"asks for {least}",
                hint="have its operator update firmware and microcode",
            )
    key = "VLEK" if report.signing_key == SIGNED_BY_VLEK else "VCEK"
    return Claims(
        kind=Kind.SEV_SNP,
        confidential=True,
        measurement=report.measurement.hex(),
        signer=report.author_key_digest.hex() if any(report.author_key_digest) else "",
        svn=report.guest_svn,
        tcb_status="MinimumMet" if policy.min_tcb else "Unchecked",
        debug=False,
        report_data=report.report_data.hex(),
        features=("smt",) if report.platform_info & PLATFORM_SMT else (),
        platform=report.chip_id.hex() if any(report.chip_id) else "",
        verified_at=at,
        details={
            "product": product(leaf),
            "signed by": key,
            "VMPL": str(report.vmpl),
            "reported TCB": ", ".join(f"{name} {value}" for name, value in tcb.items()),
            "guest policy": f"{report.policy:#x}",
            "host data": report.raw[0xC0:0xE0].hex(),
            "report version": str(report.version),
        },
    )
