"""What every kind of TEE has to offer: evidence, its verifier, a sealing key, and what it needs.

Trust domain: every enclave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import REPORT_DATA_SIZE, Attester, Evidence, Kind, Verifier

MACHINE = Path("/")


@dataclass(frozen=True)
class Need:
    """One thing that a machine must have.

    Attributes:
        what: its name.
        there: whether it was found; None: that cannot be seen from here.
        remedy: what to do where it was not.
    """

    what: str
    there: bool | None
    remedy: str


class Platform(ABC):
    """One kind of TEE, on this machine or, for its verifier, on another.

    Args:
        root: of the file system with the machine's devices; a test brings its own.

    Attributes:
        keeps_state: whether an enclave that is started anew gets the sealing key of the one before,
            and so opens what that one sealed.
    """

    kind: ClassVar[Kind]
    keeps_state: ClassVar[bool] = True

    def __init__(self, root: Path = MACHINE) -> None:
        self.root = root

    def needs(self) -> list[Need]:
        """What evidence of this kind needs, and whether it is here."""
        return []

    def missing(self) -> list[str]:
        """What this machine lacks, each with its remedy; nothing where evidence can be made."""
        return [f"{need.what}: {need.remedy}" for need in self.needs() if need.there is False]

    @abstractmethod
    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """Evidence of this process, and vendor data that came with it.

        Args:
            challenge: 64 bytes of report data; for a GPU a nonce of 32 bytes.

        Raises:
            AttesterUnavailableError: the machine lacks something; the message says what.
        """

    def attester(
        self, program: bytes, *, collateral: bytes = b"", gpu: Platform | None = None
    ) -> Attester:
        """Makes evidence of this process.

        Args:
            program: digest of its code, 48 bytes; hardware measures for itself.
            collateral: vendor data to send along, instead of what comes with the evidence.
            gpu: the machine's GPUs, or nothing.
        """
        return _PlatformAttester(self, collateral, gpu)

    @abstractmethod
    def verifier(self, collateral: Sequence[bytes] = ()) -> Verifier:
        """Appraises evidence of this kind, wherever it was made.

        Args:
            collateral: used instead of what comes with evidence: Intel's JSON for SGX and TDX;
                certificates (PEM or DER) for SEV-SNP; manifests for GPUs; raw development keys for
                simulated evidence.

        Raises:
            MissingCollateralError: more of it than this kind can use, or of another form.
        """

    def sealing_key(self) -> bytes:
        """32 bytes that only this code on this machine can get again; see ``keeps_state``.

        Raises:
            AttesterUnavailableError: there is none; the message says why.
        """
        raise AttesterUnavailableError(f"{self.kind} has no key to seal files with")

    def derive(self, secret: bytes) -> bytes:
        """The sealing key from a secret that the hardware gave, which is used for nothing else."""
        info = f"sealtune/{self.kind}/sealing/v1".encode()
        return HKDF(SHA384(), 32, salt=None, info=info).derive(secret)


class _PlatformAttester:
    """Evidence of a platform, with that of its GPUs."""

    def __init__(self, platform: Platform, collateral: bytes, gpu: Platform | None) -> None:
        self.kind = platform.kind
        self._platform = platform
        self._collateral = collateral
        self._gpu = gpu

    def collect(self, report_data: bytes) -> Evidence:
        """See `sealtune.attest.evidence.Attester`."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterUnavailableError(f"report data of {len(report_data)} bytes, not 64")
        data, sent = self._platform.collect(report_data)
        return Evidence(self.kind, data, self._collateral or sent)

    def collect_gpu(self, nonce: bytes) -> bytes:
        """See `sealtune.attest.evidence.Attester`."""
        return self._gpu.collect(nonce)[0] if self._gpu else b""
