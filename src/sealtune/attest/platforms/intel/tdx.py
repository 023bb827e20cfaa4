"""TDX guests.

Trust domain: every enclave.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import Need, Platform
from sealtune.attest.platforms.intel.dcap import DcapVerifier, only
from sealtune.attest.platforms.intel.quote import trim_padding
from sealtune.attest.platforms.tsm import tsm_needs, tsm_report

_NO_KEY = "TDX gives a guest no key that outlives it"
_REMEDY = "where files are sealed, as at the server, use sgx or sev-snp"


class Tdx(Platform):
    """A TDX guest."""

    kind = Kind.TDX

    def needs(self) -> list[Need]:
        """See `Platform`."""
        return tsm_needs(self.root, "a TDX guest", "dev/tdx_guest", "tdx_guest")

    def sealing_needs(self) -> list[Need]:
        """See `Platform`: nothing would help."""
        return [Need("a key to seal files with", False, f"{_NO_KEY}; {_REMEDY}")]

    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """See `Platform`."""
        quote, _ = tsm_report(self.root, self.kind, challenge)
        return trim_padding(quote), b""

    def verifier(self, collateral: Sequence[bytes] = ()) -> DcapVerifier:
        """See `Platform`."""
        return DcapVerifier(self.kind, only(self.kind, collateral))

    def sealing_key(self) -> bytes:
        """See `Platform`: always raises."""
        raise AttesterUnavailableError(_NO_KEY, hint=_REMEDY)
