"""Every error that sealtune raises on purpose, drawn as one tree.

    SealtuneError                    exit code  what a caller can act on
    ├── ConfigError                      2      the job file; lists every problem at once
    ├── DataError                        3      a data file, column, label or text
    ├── ModelError                       4
    │   ├── UnsupportedModelError               an architecture the slice plan does not understand
    │   ├── TargetModulesError                  target modules match nothing, or no linear layer
    │   ├── AdapterMismatchError                an adapter of another model, or with missing keys
    │   ├── UpdateBoundError                    an update beyond what an honest round can reach
    │   └── PrivacyBudgetError                  a round more than the budget of privacy allows
    ├── OffloadError                     5
    │   ├── PadReuseError                       a one-time pad would be used twice
    │   ├── AcceleratorLostError                the accelerator went away or broke the protocol
    │   └── IntegrityError                      the accelerator returned a wrong product
    ├── ChannelError                     6
    │   ├── FrameError                          bytes from outside that are not a well-formed frame
    │   ├── SealError                           a sealed message was altered, replayed or reordered
    │   ├── KeyReleaseError                     a key could not be released or opened
    │   ├── RollbackError                       the server's state is an older one, or a second one
    │   └── SecureAggregationError              secure aggregation was asked for more than a sum
    ├── AttestationError                 7      evidence was refused (subclasses: sealtune.attest)
    ├── FederationError                  8
    │   ├── PortInUseError                      a port that the run needs is taken
    │   ├── SiteLostError                       a site did not answer before its deadline
    │   └── ProcessDiedError                    one of the run's processes ended unexpectedly
    ├── StorageError                     9      disk full, no permission, run folder in the way
    └── ManifestError                   10      a job manifest was refused; nothing is started
        ├── MalformedManifestError              bytes that are no manifest or no envelope
        │   └── NotCanonicalError               a manifest in other than its one byte string
        ├── SignatureMissingError               a participant has not signed
        ├── SignatureWrongError                 a signature does not verify
        ├── UnknownKeyError                     a key that is none of the participants'
        ├── ManifestExpiredError                outside the time in which it is valid
        ├── DigestMismatchError                 what lies here is not what was signed
        ├── DifferenceReleaseError              its result and an earlier one could be subtracted
        ├── CardError                           cards of parties that no manifest can be made of
        ├── WeakEvidenceError                   it accepts evidence that proves nothing
        ├── UnsupportedTermsError               it asks for what this version cannot keep
        └── KeyFileError                        a signing key's file cannot be used

Every message says what happened, where, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class SealtuneError(Exception):
    """Base of every deliberate error; ``class Some(SealtuneError, code=3)`` gives the exit code.

    Args:
        message: what happened and where, in one sentence.
        hint: what to do next; shown on a line of its own.
    """

    exit_code = 1

    def __init_subclass__(cls, *, code: int | None = None) -> None:
        """A class without a ``code`` has its parent's exit code."""
        super().__init_subclass__()
        if code is not None:
            cls.exit_code = code

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration file.

    Attributes:
        key: dotted path of the key, such as ``tuning.rank``.
        message: what is wrong with it, and what would be right.
    """

    key: str
    message: str


class ConfigError(SealtuneError, code=2):
    """A job file with faults; all of them are listed together."""

    def __init__(self, source: str, problems: Sequence[Problem], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__(_listed(source, problems), hint=hint)


def _listed(source: str, problems: Sequence[Problem]) -> str:
    lines = "".join(f"\n  {p.key}: {p.message}" for p in problems)
    noun = "problem" if len(problems) == 1 else "problems"
    return f"{source}: {len(problems)} {noun}{lines}"


class DataError(SealtuneError, code=3):
    """A data file is missing, unreadable, or its contents cannot be used."""


class ModelError(SealtuneError, code=4):
    """A model or adapter cannot be loaded, planned or exported."""


class UnsupportedModelError(ModelError):
    """The slice plan does not understand this architecture."""


class TargetModulesError(ModelError):
    """The target modules match nothing, or match something that is not linear."""


class AdapterMismatchError(ModelError):
    """The adapter belongs to another base model, or lacks tensors."""


class UpdateBoundError(ModelError):
    """A site's update is farther from the global adapter than its round can have taken it."""


class PrivacyBudgetError(ModelError):
    """A site is asked for more rounds than the signed budget of privacy allows."""


class OffloadError(SealtuneError, code=5):
    """Work handed to the untrusted accelerator failed."""


class PadReuseError(OffloadError):
    """A one-time pad was asked for a second time."""


class AcceleratorLostError(OffloadError):
    """The accelerator closed the connection or broke the protocol."""


class IntegrityError(OffloadError):
    """The accelerator returned a product that is provably wrong."""


class ChannelError(SealtuneError, code=6):
    """Sealed traffic between enclaves failed."""


class FrameError(ChannelError):
    """Bytes from outside are not a well-formed frame."""


class SealError(ChannelError):
    """A sealed message was altered, replayed, reordered or cut short."""


class KeyReleaseError(ChannelError):
    """A key could not be sealed to, or opened by, an attested enclave."""


class RollbackError(ChannelError):
    """The server enclave's state does not come after the one that a site has seen."""


class SecureAggregationError(ChannelError):
    """The server or another site does not keep to the rules; nothing was given out."""


class AttestationError(SealtuneError, code=7):
    """Evidence was refused."""


class FederationError(SealtuneError, code=8):
    """The processes or the network engine of a run failed."""


class PortInUseError(FederationError):
    """A port that the run needs is taken."""


class SiteLostError(FederationError):
    """A site did not answer before its deadline."""


class ProcessDiedError(FederationError):
    """One of the run's processes ended unexpectedly."""


class StorageError(SealtuneError, code=9):
    """Files cannot be written: disk full, no permission, or a folder in the way."""


class ManifestError(SealtuneError, code=10):
    """A job manifest was refused."""


class MalformedManifestError(ManifestError):
    """The bytes are no manifest, or no envelope of one."""


class NotCanonicalError(MalformedManifestError):
    """The manifest is not written in the one byte string that RFC 8785 gives it."""


class SignatureMissingError(ManifestError):
    """A participant has not signed."""


class SignatureWrongError(ManifestError):
    """A signature does not belong to these bytes and this key."""


class UnknownKeyError(ManifestError):
    """A key that is none of the participants', or not the one expected of a participant."""


class ManifestExpiredError(ManifestError):
    """The manifest is not valid yet, or no longer."""


class DigestMismatchError(ManifestError):
    """Model, data, plan, code or settings are not those that were signed."""


class DifferenceReleaseError(ManifestError):
    """Its result and that of an earlier job differ by the part of too few organisations."""


class CardError(ManifestError):
    """Cards cannot be used, or do not go together; all faults are listed, each with its card."""

    def __init__(self, problems: Sequence[Problem], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__(_listed("cards", problems), hint=hint)


class WeakEvidenceError(ManifestError):
    """The manifest accepts any code at all, what needs no hardware beside what does, or an
    attested GPU without evidence of it."""


class UnsupportedTermsError(ManifestError):
    """The manifest asks for a rule that this version cannot keep."""


class KeyFileError(ManifestError):
    """A signing key's file cannot be read, is no key, or can be read by others."""
