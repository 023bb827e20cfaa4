"""Why evidence was refused: one class and one exit code per reason.

    AttestationError                      7   (sealtune.errors)
    ├── MalformedEvidenceError           70   bytes that are not evidence of the stated kind
    │   ├── TrailingBytesError           71   well-formed evidence, followed by something
    │   └── OversizeEvidenceError        72   larger than any evidence of this kind can be
    ├── KindNotAllowedError              73   the policy does not name this kind of evidence
    ├── BadSignatureError                74   a signature does not verify
    ├── BadChainError                    75   certificates do not lead to the vendor's root
    ├── CollateralError
    │   ├── StaleCollateralError         76   out of its validity at the time of appraisal
    │   └── MissingCollateralError       77   vendor data without which nothing can be appraised
    ├── PlatformStateError
    │   ├── TcbOutOfDateError            78   the vendor's verdict on the firmware is not accepted
    │   ├── AdvisoryError                79   a security advisory applies that is not accepted
    │   └── PlatformNotAllowedError      86   a genuine machine that is not on the list
    ├── EnclaveError
    │   ├── DebugEnclaveError            80   its memory can be read from outside
    │   ├── UnknownMeasurementError      81   other code than the policy names
    │   ├── UnknownSignerError           82   code signed by somebody else
    │   ├── SvnTooLowError               83   an older security version than the policy asks for
    │   └── GuestPolicyError             89   migratable, wrong privilege level, or the like
    ├── FreshnessError
    │   ├── WrongReportDataError         84   made for another nonce, job, key or role
    │   └── NonceReusedError             85   a challenge was answered before
    ├── GpuEvidenceError                 87   the policy asks for a GPU, none was proved
    └── AttesterUnavailableError         88   this machine cannot make such evidence

Codes are stable: scripts may rely on them. Verification raises one of these; it never returns a
truth value that a caller could forget to look at.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from sealtune.errors import AttestationError


class MalformedEvidenceError(AttestationError):
    """The bytes are not well-formed evidence of the stated kind."""

    exit_code = 70


class TrailingBytesError(MalformedEvidenceError):
    """Something follows the evidence: nobody signed it, so nobody may rely on it."""

    exit_code = 71


class OversizeEvidenceError(MalformedEvidenceError):
    """The bytes are more than any evidence of this kind can have; they were not parsed."""

    exit_code = 72


class KindNotAllowedError(AttestationError):
    """The appraisal policy does not name this kind of evidence."""

    exit_code = 73


class BadSignatureError(AttestationError):
    """A signature in the evidence or its collateral does not verify."""

    exit_code = 74


class BadChainError(AttestationError):
    """Certificates do not lead to the vendor's root, or do not belong to this evidence."""

    exit_code = 75


class CollateralError(AttestationError):
    """Vendor data (certificates, revocation lists, TCB tables) is unusable."""


class StaleCollateralError(CollateralError):
    """Vendor data was not valid at the time of the appraisal."""

    exit_code = 76


class MissingCollateralError(CollateralError):
    """Vendor data without which the evidence cannot be appraised is not there."""

    exit_code = 77


class PlatformStateError(AttestationError):
    """The machine is genuine, but not in an acceptable state."""


class TcbOutOfDateError(PlatformStateError):
    """The vendor's verdict on firmware and microcode is not one the policy accepts."""

    exit_code = 78


class AdvisoryError(PlatformStateError):
    """A security advisory applies to the platform and the policy does not accept it."""

    exit_code = 79


class PlatformNotAllowedError(PlatformStateError):
    """The machine is not on the policy's list of machines."""

    exit_code = 86


class EnclaveError(AttestationError):
    """The machine is fine, but what runs in the enclave is not what was agreed."""


class DebugEnclaveError(EnclaveError):
    """A debug enclave: its operator can read and change its memory."""

    exit_code = 80


class UnknownMeasurementError(EnclaveError):
    """The enclave runs code (or a GPU firmware) that the policy does not name."""

    exit_code = 81


class UnknownSignerError(EnclaveError):
    """The enclave's code is signed by a key that the policy does not name."""

    exit_code = 82


class SvnTooLowError(EnclaveError):
    """The enclave's security version is older than the policy asks for."""

    exit_code = 83


class GuestPolicyError(EnclaveError):
    """The guest may be migrated, runs at a wrong privilege level, or was misconfigured."""

    exit_code = 89


class FreshnessError(AttestationError):
    """The evidence is genuine, but does not answer this challenge."""


class WrongReportDataError(FreshnessError):
    """The evidence was made for another nonce, job, key, role or GPU."""

    exit_code = 84


class NonceReusedError(FreshnessError):
    """A challenge was answered before; each is good for one answer."""

    exit_code = 85


class GpuEvidenceError(AttestationError):
    """The policy asks for an attested GPU and none was proved."""

    exit_code = 87


class AttesterUnavailableError(AttestationError):
    """This machine cannot make such evidence; the message says what is missing."""

    exit_code = 88
