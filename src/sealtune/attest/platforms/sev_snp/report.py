"""AMD SEV-SNP: attestation reports, verified on `cryptography` alone.

Source: AMD SEV Secure Nested Paging Firmware ABI (56860), table "ATTESTATION_REPORT"; AMD Versioned
Chip Endorsement Key certificate and KDS interface (57230).

A report is 1184 bytes, little-endian; the chip signs bytes 0 to 0x29F with its VCEK, or with a VLEK
that a cloud provider loaded (ECDSA P-384, SHA-384, r and s little-endian in 72 bytes each). The
endorsements are PEM: the VCEK or VLEK, then AMD's intermediate (ASK or ASVK), then its root (ARK),
which must be one of those pinned here.

AMD gives no verdict on a platform's firmware, so the policy states the smallest versions that are
accepted (`sealtune.attest.platforms.sev_snp.policy`).

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    DebugEnclaveError,
    GuestPolicyError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    TrailingBytesError,
    WrongReportDataError,
)
from sealtune.attest.evidence import MAX_PART, Claims, Evidence, Kind
from sealtune.attest.platforms.certs import (
    common_name,
    extension,
    issued_chain,
    load_pem_bundle,
    verify_chain,
    verify_p384,
)
from sealtune.attest.platforms.sev_snp.state import (
    TCB_PARTS,
    GuestBit,
    PlatformBit,
    Product,
    SnpState,
    TcbPart,
    guest_bits,
    platform_bits,
)
from sealtune.attest.policy import AppraisalPolicy
from sealtune.job.printable import printable

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
# Where a report has which TCB version.
TCB_AT = {"reported": 0x180, "current": 0x38, "committed": 0x1E0, "launch": 0x1F0}
SIGNED_BY_VCEK, SIGNED_BY_VLEK = 0, 1
SIGNING_KEYS = {SIGNED_BY_VCEK: "SEV-VCEK", SIGNED_BY_VLEK: "SEV-VLEK"}
_FLAGS = 0x1F  # author key enabled, chip key masked, three bits of signing key
_HEAD = struct.Struct("<IIQ16s16sIIQQI4s")  # version ... author key and signing key flags


@dataclass(frozen=True)
class Report:
    """The fields of a report that are looked at; names as in AMD's table."""

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    guest_policy: tuple[GuestBit, ...]
    vmpl: int
    platform: tuple[PlatformBit, ...]
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
    def host_data(self) -> bytes:
        """32 bytes that the host gave at launch."""
        return self.raw[0xC0:0xE0]

    @property
    def id_key_digest(self) -> bytes:
        """Digest of the key that signed the guest's identity block, or zeros."""
        return self.raw[0xE0:0x110]

    @property
    def author_key_digest(self) -> bytes:
        """Digest of the key that certified the ID key, or zeros."""
        return self.raw[0x110:0x140]

    def tcb(self, which: str) -> bytes:
        """A TCB version by its name in `TCB_AT`; the signing key was derived for the reported."""
        return self.raw[TCB_AT[which] :][:8]

    @property
    def product(self) -> Product | None:
        """What family and model of the processor say; a report of version 2 has none."""
        family, model = self.raw[0x188], self.raw[0x189]
        if family == 0x19:
            return "Milan" if model < 0x10 else "Genoa"
        return "Turin" if family == 0x1A else None

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
    if flags & ~_FLAGS:
        raise MalformedEvidenceError(f"SEV-SNP report has unknown flags {flags:#x}")
    bits = guest_bits(policy)
    if "debug" in bits:
        raise DebugEnclaveError("the SEV-SNP guest may be debugged by the host")
    if "migrate-ma" in bits:
        raise GuestPolicyError("the SEV-SNP guest may be migrated to another machine")
    return Report(raw, version, svn, policy, bits, vmpl, platform_bits(platform), flags >> 2 & 7)


class SnpVerifier:
    """Appraises SEV-SNP reports.

    Args:
        certificates: VCEK or VLEK, intermediate and root in PEM, in any order; left out, those
            that came with the evidence are used.
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
        chain = _chain(report, load_pem_bundle(pem))
        verify_chain(chain, roots=kind_policy.roots(self._roots), at=at, what="SEV-SNP")
        _check_key(report, chain)
        _check_signature(report, chain[0])
        if report.report_data != report_data:
            raise WrongReportDataError(
                "the SEV-SNP report was made for another nonce, job, role, key or GPU"
            )
        claims = _claims(report, chain[0], at)
        claims = claims.model_copy(
            update={
                "confidential": kind_policy.confidential,
                "tcb_status": kind_policy.status(claims),
            }
        )
        kind_policy.check(claims)
        return claims


def _chain(report: Report, bundle: list[x509.Certificate]) -> list[x509.Certificate]:
    """The certificates of the key that the report says it was signed with, leaf first."""
    name = SIGNING_KEYS.get(report.signing_key)
    if name is None:
        raise BadChainError(f"the report is signed by key {report.signing_key}, no VCEK or VLEK")
    leaves = [certificate for certificate in bundle if common_name(certificate) == name]
    if len(leaves) != 1:
        names = printable(", ".join(common_name(one) or "unnamed" for one in bundle))
        raise BadChainError(
            f"the report is signed by a {name}; the certificates have {len(leaves)} of that name "
            f"(given: {names})"
        )
    chain = issued_chain(leaves[0], bundle)
    if len(chain) != 3:
        raise BadChainError(
            f"the {name} needs AMD's intermediate and root; {len(chain) - 1} fitting were given",
            hint="give the cert_chain of its product, as AMD's KDS serves it, beside it",
        )
    return chain


def _check_key(report: Report, chain: list[x509.Certificate]) -> None:
    """The certificate is of the chip and TCB that the report names."""
    leaf = chain[0]
    if report.version > 2 and report.product != product(leaf):
        raise BadChainError(
            f"the certificate is of a {product(leaf)}, not a {report.product or 'known processor'}"
        )
    reported = report.tcb("reported")
    for name, (byte, oid) in TCB_PARTS[product(leaf)].items():
        if _spl(leaf, oid) != reported[byte]:
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


def product(leaf: x509.Certificate) -> Product:
    """The product of a VCEK or VLEK; its stepping, as in "Milan-B0", is left out."""
    name = _text(leaf, "2", "AMD product").partition("-")[0]
    for known in TCB_PARTS:
        if name == known:
            return known
    raise BadChainError(f"the certificate is of an unknown AMD product {name!r}")


def _text(leaf: x509.Certificate, oid: str, what: str) -> str:
    """An extension that is a short IA5String."""
    raw = extension(leaf, f"{OID}.{oid}") or b""
    if len(raw) < 3 or raw[0] != 0x16 or raw[1] != len(raw) - 2 or raw[1] > 127:
        raise BadChainError(f"the certificate names no {what}")
    return raw[2:].decode("ascii", "replace")


def _spl(leaf: x509.Certificate, oid: str) -> int:
    """A security patch level: a DER INTEGER of 0 to 255."""
    raw = extension(leaf, f"{OID}.{oid}") or b""
    value = int.from_bytes(raw[2:], "big")
    if len(raw) not in (3, 4) or raw[:2] != bytes((2, len(raw) - 2)) or value > 255:
        raise BadChainError(f"the certificate lacks the patch level {oid}")
    return value


def _claims(report: Report, leaf: x509.Certificate, at: datetime) -> Claims:
    by_vlek = report.signing_key == SIGNED_BY_VLEK
    chip = product(leaf)
    state = SnpState(
        product=chip,
        tcb={
            which: {name: report.tcb(which)[byte] for name, (byte, _) in TCB_PARTS[chip].items()}
            for which in TCB_AT
        },
        guest_policy=report.guest_policy,
        platform=report.platform,
        host_data=report.host_data.hex(),
        author_key=_digest(report.author_key_digest),
        vlek_provider=_text(leaf, "5", "cloud provider") if by_vlek else "",
        vmpl=report.vmpl,
    )
    return Claims(
        kind=Kind.SEV_SNP,
        confidential=True,
        measurement=report.measurement.hex(),
        signer=_digest(report.id_key_digest),
        svn=report.guest_svn,
        tcb_status="Unchecked",
        debug=False,
        report_data=report.report_data.hex(),
        features=state.features,
        platform=_digest(report.chip_id),
        verified_at=at,
        snp=state,
        details={
            "product": chip,
            "signed by": f"VLEK of {state.vlek_provider}" if by_vlek else "VCEK",
            "VMPL": str(report.vmpl),
            **{f"{which} TCB": _versions(parts) for which, parts in state.tcb.items()},
            "guest policy": f"{report.policy:#x}: {', '.join(state.guest_policy) or '-'}",
            "machine": ", ".join(state.platform) or "-",
            "author key": state.author_key or "-",
            "host data": state.host_data,
            "report version": str(report.version),
        },
    )


def _digest(raw: bytes) -> str:
    """Hex, or nothing where a field is all zeros."""
    return raw.hex() if any(raw) else ""


def _versions(parts: Mapping[TcbPart, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parts.items())
