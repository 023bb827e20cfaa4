"""SGX enclaves under Gramine.

Source: Gramine documentation "Attestation and Secret Provisioning". Tested against recorded quotes
and a fake file tree only: none of this hardware was at hand.

Trust domain: every enclave.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import Need, Platform
from sealtune.attest.platforms.device import (
    read,
    there,
    unavailable,
    write_once,
)
from sealtune.attest.platforms.intel.dcap import DcapVerifier, only
from sealtune.attest.platforms.intel.quote import trim_padding

_FOLDER = "dev/attestation"
_KEY_SIZE = 16  # bytes of an SGX key
_IN_GRAMINE = 'start it with gramine-sgx and sgx.remote_attestation = "dcap"'


class Sgx(Platform):
    """An SGX enclave under Gramine."""

    kind = Kind.SGX

    def needs(self) -> list[Need]:
        """See `Platform`."""
        return [
            there(
                self.root, "dev/sgx_enclave", "switch SGX on in the firmware; Linux 5.11 or later"
            ),
            Need(
                "command gramine-sgx",
                # inside an enclave there is no need of it
                shutil.which("gramine-sgx") is not None or (self.root / _FOLDER).exists(),
                "install the package gramine (https://gramine.readthedocs.io)",
            ),
            there(self.root, _FOLDER, _IN_GRAMINE),
        ]

    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """See `Platform`."""
        folder = self.root / _FOLDER
        if not folder.is_dir():
            raise AttesterUnavailableError(
                f"no {folder}: this process does not run in an SGX enclave under Gramine",
                hint=_IN_GRAMINE,
            )
        try:
            kind = (folder / "attestation_type").read_text().strip()
            if kind != "dcap":
                raise AttesterUnavailableError(
                    f"Gramine was started with remote attestation {kind!r}",
                    hint='set sgx.remote_attestation = "dcap" in the manifest template',
                )
            write_once(folder / "user_report_data", challenge)
            return trim_padding(read(folder / "quote")), b""
        except OSError as error:
            raise unavailable("Gramine gave no quote", error) from error

    def verifier(self, collateral: Sequence[bytes] = ()) -> DcapVerifier:
        """See `Platform`."""
        return DcapVerifier(self.kind, only(self.kind, collateral))

    def sealing_key(self) -> bytes:
        """See `Platform`: of this MRENCLAVE on this processor."""
        path = self.root / _FOLDER / "keys" / "_sgx_mrenclave"
        try:
            secret = read(path)
        except OSError as error:
            raise unavailable(f"Gramine gave no sealing key ({path})", error) from error
        if len(secret) != _KEY_SIZE:
            raise AttesterUnavailableError(
                f"{path} has {len(secret)} bytes, not {_KEY_SIZE}: no key of SGX"
            )
        return self.derive(secret)
