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


class MalformedEvidenceError(AttestationError, code=70):
    """The bytes are not well-formed evidence of the stated kind."""


class TrailingBytesError(MalformedEvidenceError, code=71):
    """Something follows the evidence: nobody signed it, so nobody may rely on it."""


class OversizeEvidenceError(MalformedEvidenceError, code=72):
    """The bytes are more than any evidence of this kind can have; they were not parsed."""


class KindNotAllowedError(AttestationError, code=73):
    """The appraisal policy does not name this kind of evidence."""


class BadSignatureError(AttestationError, code=74):
    """A signature in the evidence or its collateral does not verify."""


class BadChainError(AttestationError, code=75):
    """Certificates do not lead to the vendor's root, or do not belong to this evidence."""


class CollateralError(AttestationError):
    """Vendor data (certificates, revocation lists, TCB tables) is unusable."""


class StaleCollateralError(CollateralError, code=76):
    """Vendor data was not valid at the time of the appraisal."""


class MissingCollateralError(CollateralError, code=77):
    """Vendor data without which the evidence cannot be appraised is not there."""


class PlatformStateError(AttestationError):
    """The machine is genuine, but not in an acceptable state."""


class TcbOutOfDateError(PlatformStateError, code=78):
    """The vendor's verdict on firmware and microcode is not one the policy accepts."""


class AdvisoryError(PlatformStateError, code=79):
    """A security advisory applies to the platform and the policy does not accept it."""


class PlatformNotAllowedError(PlatformStateError, code=86):
    """The machine is not on the policy's list of machines."""


class EnclaveError(AttestationError):
    """The machine is fine, but what runs in the enclave is not what was agreed."""


class DebugEnclaveError(EnclaveError, code=80):
    """A debug enclave: its operator can read and change its memory."""


class UnknownMeasurementError(EnclaveError, code=81):
    """The enclave runs code (or a GPU firmware) that the policy does not name."""


class UnknownSignerError(EnclaveError, code=82):
    """The enclave's code is signed by a key that the policy does not name."""


class SvnTooLowError(EnclaveError, code=83):
    """The enclave's security version is older than the policy asks for."""


class GuestPolicyError(EnclaveError, code=89):
    """The guest may be migrated, runs at a wrong privilege level, or was misconfigured."""


class FreshnessError(AttestationError):
    """The evidence is genuine, but does not answer this challenge."""


class WrongReportDataError(FreshnessError, code=84):
    """The evidence was made for another nonce, job, key, role or GPU."""


class NonceReusedError(FreshnessError, code=85):
    """A challenge was answered before; each is good for one answer."""


class GpuEvidenceError(AttestationError, code=87):
    """The policy asks for an attested GPU and none was proved."""


class AttesterUnavailableError(AttestationError, code=88):
    """This machine cannot make such evidence; the message says what is missing."""
