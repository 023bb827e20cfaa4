"""TDX guests.

Trust domain: every enclave.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import Need, Platform
from sealtune.attest.platforms.intel.dcap import DcapVerifier, only
from sealtune.attest.platforms.intel.quote import trim_padding
from sealtune.attest.platforms.tsm import tsm_needs, tsm_report


class Tdx(Platform):
    """A TDX guest."""

    kind = Kind.TDX
    keeps_state = False

    def needs(self) -> list[Need]:
        """See `Platform`."""
        return tsm_needs(self.root, "a TDX guest", "dev/tdx_guest", "tdx_guest")

    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """See `Platform`."""
        quote, _ = tsm_report(self.root, self.kind, challenge)
        return trim_padding(quote), b""

    def verifier(self, collateral: Sequence[bytes] = ()) -> DcapVerifier:
        """See `Platform`."""
        return DcapVerifier(self.kind, only(self.kind, collateral))

    def sealing_key(self) -> bytes:
        """See `Platform`: drawn at each call, as TDX has none; it is gone with its process."""
        return secrets.token_bytes(32)
