"""SGX enclaves under Gramine.

Source: Gramine documentation "Attestation and Secret Provisioning". Tested against recorded quotes
and a fake file tree only: none of this hardware was at hand.

Trust domain: every enclave.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Evidence, Kind
from sealtune.attest.platforms.base import GpuEvidence, Need, Platform
from sealtune.attest.platforms.device import (
    check_report_data,
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

    def attester(
        self, program: bytes, *, collateral: bytes = b"", gpu: GpuEvidence | None = None
    ) -> GramineAttester:
        """See `Platform`."""
        return GramineAttester(self.root / _FOLDER, collateral=collateral, gpu=gpu)

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


class GramineAttester:
    """SGX quotes from inside a Gramine enclave.

    Args:
        root: Gramine's pseudo files.
        collateral: Intel's collateral to send along, or nothing.
        gpu: collector of GPU evidence, or nothing.
    """

    kind = Kind.SGX

    def __init__(
        self, root: Path, *, collateral: bytes = b"", gpu: GpuEvidence | None = None
    ) -> None:
        self._root = root
        self._collateral = collateral
        self._gpu = gpu

    def collect(self, report_data: bytes) -> Evidence:
        """See `sealtune.attest.evidence.Attester`."""
        check_report_data(report_data)
        if not self._root.is_dir():
            raise AttesterUnavailableError(
                f"no {self._root}: this process does not run in an SGX enclave under Gramine",
                hint=_IN_GRAMINE,
            )
        try:
            kind = (self._root / "attestation_type").read_text().strip()
            if kind != "dcap":
                raise AttesterUnavailableError(
                    f"Gramine was started with remote attestation {kind!r}",
                    hint='set sgx.remote_attestation = "dcap" in the manifest template',
                )
            write_once(self._root / "user_report_data", report_data)
            quote = trim_padding(read(self._root / "quote"))
        except OSError as error:
            raise unavailable("Gramine gave no quote", error) from error
        return Evidence(Kind.SGX, quote, self._collateral)

    def collect_gpu(self, nonce: bytes) -> bytes:
        """See `sealtune.attest.evidence.Attester`."""
        return self._gpu.collect(nonce) if self._gpu else b""
