"""Intel SGX and TDX: quotes appraised by `dcap-qvl` under an explicit policy.

`dcap-qvl` checks the signatures from Intel's root down to the quote, the revocation lists, the
quoting enclave's identity, and matches the platform against Intel's TCB tables. Around it stands
what it leaves open: the exact layout, trailing bytes, canonical certificates, the kind, report
data, measurements, and the attributes of the enclave.

The *measurement* of an SGX enclave is MRENCLAVE. That of a TD is a digest over MRTD and all else
that decides what runs in it: RTMR 0 to 3, MRCONFIGID, MROWNER, MROWNERCONFIG, MRSERVICETD. MRTD
alone would name the virtual firmware and leave kernel and file system to the operator.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealtune.attest.errors import (
    AttesterUnavailableError,
    BadChainError,
    BadSignatureError,
    DebugEnclaveError,
    GuestPolicyError,
    MalformedEvidenceError,
    MissingCollateralError,
    OversizeEvidenceError,
    PlatformNotAllowedError,
    StaleCollateralError,
    TcbOutOfDateError,
    WrongReportDataError,
)
from sealtune.attest.evidence import MAX_PART, Claims, Evidence, Kind
from sealtune.attest.platforms.certs import load_pem_chain, sha384, verify_chain
from sealtune.attest.platforms.intel.quote import TD15_BODY, Quote, parse_quote
from sealtune.attest.policy import INTEL_STATUSES, AppraisalPolicy, KindPolicy
from sealtune.errors import AttestationError
from sealtune.job.printable import printable

# "Intel SGX Root CA", CN=Intel SGX Root CA, 2018 to 2049; the same digest is in Intel's own docs.
INTEL_ROOTS = frozenset(
    {bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")}
)
SGX_DEBUG = 1 << 1
# INIT, MODE64BIT, CET, KSS, AEXNOTIFY. Not PROVISIONKEY and EINITTOKEN_KEY: those of Intel's own.
SGX_KNOWN = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 10
TD_UNTRUSTED = 0xFF  # TUD: any of these bits, and the host can look into the TD
TD_SEPT_VE_DISABLE, TD_MIGRATABLE = 1 << 28, 1 << 29
# ICSSD, LASS, SEPT_VE_DISABLE, PKS, KL, PERFMON: the guest's own features, and what protects it.
TD_KNOWN = 1 << 16 | 1 << 27 | TD_SEPT_VE_DISABLE | 1 << 30 | 1 << 31 | 1 << 63
# As a quote of TDX 1.0 has them one after the other, and the one that TDX 1.5 adds.
TD_REGISTERS = (
    *("MRTD", "MRCONFIGID", "MROWNER", "MROWNERCONFIG", "RTMR0", "RTMR1", "RTMR2", "RTMR3"),
    "MRSERVICETD",
)
_HUNDRED_YEARS = 100 * 365 * 24 * 3600

# Words in messages of dcap-qvl 0.7, most specific first, and what they mean here.
_REASONS: tuple[tuple[str, type[AttestationError]], ...] = (
    ("Debug mode", DebugEnclaveError),
    ("MR service TD", GuestPolicyError),
    ("issue date is in the future", StaleCollateralError),
    ("xpired", StaleCollateralError),
    ("NotValidYet", StaleCollateralError),
    ("not valid yet", StaleCollateralError),
    ("No matching TCB level", TcbOutOfDateError),
    ("TCB status", TcbOutOfDateError),
    ("TCB too old", TcbOutOfDateError),
    ("TCB eval data number", TcbOutOfDateError),
    ("current TDX TCB", TcbOutOfDateError),
    ("TDX module", TcbOutOfDateError),
    ("allowed by policy", PlatformNotAllowedError),
    ("QE Identity id/version", MissingCollateralError),
    ("Fmspc mismatch", MissingCollateralError),
    ("TCB info in the collateral", MissingCollateralError),
    ("ignature", BadSignatureError),
    ("QE report hash mismatch", BadSignatureError),
    ("mismatch", BadChainError),
    ("ssuer", BadChainError),
    ("evoked", BadChainError),
    ("ertificate", BadChainError),
)


class DcapVerifier:
    """Appraises SGX or TDX quotes.

    Args:
        kind: which of the two.
        collateral: Intel's tables, lists and chains as JSON (the fields of `QuoteCollateralV3`);
            left out, those that came with the evidence are used. Either way Intel signed them.
        roots: SHA-256 digests of accepted roots; Intel's unless a test brings its own.
    """

    def __init__(
        self,
        kind: Kind,
        collateral: bytes | None = None,
        *,
        roots: Collection[bytes] = INTEL_ROOTS,
    ) -> None:
        if kind not in (Kind.SGX, Kind.TDX):
            raise MalformedEvidenceError(f"{kind} evidence is not a DCAP quote")
        self.kind = kind
        self._collateral = collateral
        self._roots = roots

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        kind_policy = policy.for_kind(self.kind)
        quote = parse_quote(evidence.data)
        if evidence.kind is not self.kind or quote.kind is not self.kind:
            raise MalformedEvidenceError(
                f"a {quote.kind} quote in {evidence.kind} evidence, where {self.kind} was expected"
            )
        _check_attributes(quote)
        chain = load_pem_chain(quote.pck_chain)
        verify_chain(chain, roots=kind_policy.roots(self._roots), at=at, what="PCK")
        collateral = self._collateral or evidence.endorsements
        verified = self._appraise(evidence.data, collateral, chain[-1], kind_policy, at)
        if quote.report_data != report_data:
            raise WrongReportDataError(
                f"the {self.kind} quote was made for another nonce, job, role, key or GPU"
            )
        claims = _claims(quote, verified, at)
        claims = claims.model_copy(update={"confidential": kind_policy.confidential})
        kind_policy.check(claims)
        return claims

    def _appraise(
        self,
        raw: bytes,
        collateral: bytes,
        root: x509.Certificate,
        policy: KindPolicy,
        at: datetime,
    ) -> dict[str, Any]:
        """What dcap-qvl has verified about a quote, with all of Intel's data under ``root``."""
        if not collateral:
            raise MissingCollateralError(
                "a quote without Intel's collateral cannot be appraised",
                hint="give the collateral of its platform, as fetched from a PCCS",
            )
        if len(collateral) > MAX_PART:
            raise OversizeEvidenceError(f"collateral of {len(collateral)} bytes, limit {MAX_PART}")
        library = _library()
        now = int(at.timestamp())
        try:
            parsed = library.QuoteCollateralV3.from_json(collateral.decode())
        except (ValueError, UnicodeDecodeError) as error:
            raise MissingCollateralError("the collateral is not QuoteCollateralV3 JSON") from error
        try:
            explicit = _explicit_policy(library, policy, now)
            checker = library.QuoteVerifier(root.public_bytes(Encoding.DER))
            claims = checker.verify_with_policy(raw, parsed, now, explicit)
            verified: dict[str, Any] = json.loads(claims.to_json())
        except ValueError as error:
            raise _refusal(str(error)) from error
        except BaseException as error:
            # A panic of the Rust code is no Exception; it must not take an enclave down.
            if type(error).__name__ != "PanicException":
                raise
            raise MalformedEvidenceError("dcap-qvl could not cope with this quote") from error
        return verified


def only(kind: Kind, collateral: Sequence[bytes]) -> bytes | None:
    """The one file of collateral that a kind of Intel's takes, or None.

    Raises:
        MissingCollateralError: several.
    """
    if len(collateral) > 1:
        raise MissingCollateralError(f"{kind} takes one file of collateral")
    return collateral[0] if collateral else None


def _check_attributes(quote: Quote) -> None:
    """Refuse what no policy accepts. Unsigned so far, but good enough to refuse."""
    if quote.kind is Kind.SGX:
        if quote.attributes & SGX_DEBUG:
            raise DebugEnclaveError("the SGX enclave runs in debug mode")
        _refuse_unknown(quote.attributes & ~SGX_KNOWN, "SGX enclave")
        # CONFIGID and CONFIGSVN steer the enclave from outside, and MRENCLAVE knows nothing of it.
        if any(quote.field(192, 64)) or any(quote.field(260, 2)):
            raise GuestPolicyError("the SGX enclave was given a configuration (CONFIGID)")
        return
    if quote.attributes & TD_UNTRUSTED:
        raise DebugEnclaveError("the TD runs in debug mode")
    if quote.attributes & TD_MIGRATABLE:
        raise GuestPolicyError("the TD may be migrated to another machine")
    _refuse_unknown(quote.attributes & ~TD_KNOWN, "TD")
    if not quote.attributes & TD_SEPT_VE_DISABLE:
        raise GuestPolicyError("the host can raise exceptions in the TD (no SEPT_VE_DISABLE)")
    # MRSIGNERSEAM and SEAMATTRIBUTES
    if any(quote.field(64, 48)) or any(quote.field(112, 8)):
        raise PlatformNotAllowedError("the TDX module is not one of Intel's for production")


def _refuse_unknown(bits: int, what: str) -> None:
    if bits:
        raise GuestPolicyError(f"the {what} has attributes that are not accepted: {bits:#x}")


def _library() -> Any:
    try:
        return importlib.import_module("dcap_qvl")
    except ImportError as error:
        raise AttesterUnavailableError(
            "SGX and TDX quotes cannot be appraised: the package dcap-qvl is not installed",
            hint="pip install 'dcap-qvl>=0.7,<0.8'",
        ) from error


def _explicit_policy(library: Any, policy: KindPolicy, now: int) -> Any:
    explicit = library.QuotePolicy.strict(now)
    for status in policy.tcb_statuses:
        if status in INTEL_STATUSES and status != "UpToDate":
            explicit = explicit.allow_status(status)
    if any(status.startswith("OutOfDate") for status in policy.tcb_statuses):
        # Without a grace period the library refuses these even where the policy names them.
        explicit = explicit.platform_grace_period(_HUNDRED_YEARS).qe_grace_period(_HUNDRED_YEARS)
    return (
        explicit.allow_smt("smt" in policy.allow)
        .allow_dynamic_platform("dynamic-platform" in policy.allow)
        .allow_cached_keys("cached-keys" in policy.allow)
        .min_tcb_eval_data_number(policy.min_tcb_evaluation)
    )


def _refusal(message: str) -> AttestationError:
    reason = printable(message.removeprefix("Verification failed: "), 300)
    for words, error in _REASONS:
        if words in reason:
            return error(f"the quote was refused: {reason}")
    return MalformedEvidenceError(f"the quote was refused: {reason}")


def _claims(quote: Quote, verified: dict[str, Any], at: datetime) -> Claims:
    try:
        pck = verified["platform"]["pck"]
        features = {
            "smt": pck["smt_enabled"],
            "dynamic-platform": pck["dynamic_platform"],
            "cached-keys": pck["cached_keys"],
        }
        expires = int(verified["earliest_expiration_date"])
        details = {
            "quote version": str(quote.version),
            "FMSPC": bytes(pck["fmspc"]).hex(),
            "TCB evaluation data number": str(verified["tcb"]["eval_data_number"]),
            "collateral valid until": datetime.fromtimestamp(expires, at.tzinfo).isoformat(),
        }
        common: dict[str, Any] = {
            "kind": quote.kind,
            "confidential": True,
            "tcb_status": verified["tcb"]["status"],
            "advisories": tuple(verified["tcb"]["advisory_ids"]),
            "debug": False,
            "report_data": quote.report_data.hex(),
            "features": tuple(name for name, flag in features.items() if flag == "True"),
            "platform": bytes(pck["ppid"]).hex(),
            "verified_at": at,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedEvidenceError("dcap-qvl returned claims of another form") from error
    if quote.kind is Kind.SGX:
        product_id = int.from_bytes(quote.field(256, 2), "little")
        details |= {"product id": str(product_id)}
        return Claims(
            product_id=product_id,
            measurement=quote.field(64, 32).hex(),
            signer=quote.field(128, 32).hex(),
            svn=int.from_bytes(quote.field(258, 2), "little"),
            details=details,
            **common,
        )
    registers = td_registers(quote)
    details |= {name: value.hex() for name, value in registers.items()}
    module = quote.field(16, 48).hex()
    details |= {"TDX module": module, "attributes": f"{quote.attributes:#x}"}
    return Claims(
        measurement=td_measurement(quote).hex(), td_module=module, details=details, **common
    )


def td_registers(quote: Quote) -> dict[str, bytes]:
    """The registers that together say what runs in a TD, each 48 bytes."""
    *names, last = TD_REGISTERS
    registers = {name: quote.field(136 + 48 * i, 48) for i, name in enumerate(names)}
    service = quote.field(600, 48) if len(quote.body) == TD15_BODY else bytes(48)
    return {**registers, last: service}


def td_measurement(quote: Quote) -> bytes:
    """What a policy names as the measurement of a TD (48 bytes)."""
    return measurement_of(td_registers(quote))


def measurement_of(registers: Mapping[str, bytes]) -> bytes:
    """SHA-384 over all of `TD_REGISTERS` (48 bytes)."""
    return sha384(b"sealtune/td/v1", *(registers[name] for name in TD_REGISTERS))
