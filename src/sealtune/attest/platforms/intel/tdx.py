"""TDX guests.

Trust domain: every enclave.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import GpuEvidence, Need, Platform
from sealtune.attest.platforms.intel.dcap import DcapVerifier, only
from sealtune.attest.platforms.intel.quote import trim_padding
from sealtune.attest.platforms.tsm import FOLDER, TsmAttester, tsm_needs

_NO_KEY = "TDX gives a guest no key that outlives it"
_REMEDY = "where files are sealed, use sgx or sev-snp"


class Tdx(Platform):
    """A TDX guest."""

    kind = Kind.TDX

    def needs(self) -> list[Need]:
        """See `Platform`."""
        return tsm_needs(self.root, "a TDX guest", "dev/tdx_guest", "tdx_guest")

    def sealing_needs(self) -> list[Need]:
        """See `Platform`: nothing would help."""
        return [Need(_NO_KEY, False, _REMEDY)]

    def attester(
        self, program: bytes, *, collateral: bytes = b"", gpu: GpuEvidence | None = None
    ) -> TsmAttester:
        """See `Platform`."""
        return TsmAttester(
            self.kind,
            self.root / FOLDER,
            lambda quote, _: (trim_padding(quote), b""),
            collateral=collateral,
            gpu=gpu,
        )

    def verifier(self, collateral: Sequence[bytes] = ()) -> DcapVerifier:
        """See `Platform`."""
        return DcapVerifier(self.kind, only(self.kind, collateral))

    def sealing_key(self) -> bytes:
        """See `Platform`: always raises."""
        raise AttesterUnavailableError(_NO_KEY, hint=_REMEDY)
