"""Making evidence on machines that have the hardware, and saying what is missing on others.

- SGX under Gramine: write ``/dev/attestation/user_report_data``, read ``/dev/attestation/quote``.
- TDX and SEV-SNP under Linux 6.7 or later: the configfs-tsm interface. One 64-byte write to
  ``inblob``, then ``outblob``; ``generation`` shows whether somebody else interfered.
- NVIDIA GPUs in confidential-computing mode: NVML.

Source: Gramine documentation "Attestation and Secret Provisioning"; Linux
Documentation/ABI/testing/configfs-tsm-report; NVML API "Confidential Computing".

Tested against recorded evidence and a fake file tree only: none of this hardware was at hand.

Trust domain: every enclave.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import MAX_PART, NONCE_SIZE, REPORT_DATA_SIZE, Evidence, Kind
from sealtune.attest.quote import trim_padding
from sealtune.attest.sev_snp import REPORT_SIZE
from sealtune.attest.snp_certificates import from_table

GRAMINE = Path("/dev/attestation")
TSM = Path("/sys/kernel/config/tsm/report")
_PROVIDERS = {"tdx_guest": Kind.TDX, "sev_guest": Kind.SEV_SNP}


class GpuCollector:
    """Collects reports of all GPUs of this machine.

    Args:
        nvml: the ``pynvml`` module, or something that looks like it.
    """

    def __init__(self, nvml: Any | None = None) -> None:
        self._nvml = nvml

    def collect(self, nonce: bytes) -> bytes:
        """Evidence over 32 bytes, in NVIDIA's JSON form.

        Raises:
            AttesterUnavailableError: no NVML, no GPU, or none in confidential-computing mode.
        """
        if len(nonce) != NONCE_SIZE:
            raise AttesterUnavailableError(f"a GPU nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
        nvml = self._nvml or _pynvml()
        try:
            nvml.nvmlInit()
            try:
                handles = [
                    nvml.nvmlDeviceGetHandleByIndex(index)
                    for index in range(nvml.nvmlDeviceGetCount())
                ]
                entries = [_gpu_entry(nvml, handle, nonce) for handle in handles]
            finally:
                nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            raise AttesterUnavailableError(
                f"NVML gives no attestation report: {error}",
                hint="the GPU must support confidential computing and have it switched on",
            ) from error
        if not entries:
            raise AttesterUnavailableError("this machine has no NVIDIA GPU")
        return json.dumps(entries, separators=(",", ":")).encode()


def _pynvml() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise AttesterUnavailableError(
            "GPU evidence needs the package nvidia-ml-py", hint="pip install nvidia-ml-py"
        ) from error


def _gpu_entry(nvml: Any, handle: Any, nonce: bytes) -> dict[str, str]:
    report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
    chain = nvml.nvmlDeviceGetConfComputeGpuCertificate(handle)
    architecture = nvml.nvmlDeviceGetArchitecture(handle)
    hopper = architecture == nvml.NVML_DEVICE_ARCH_HOPPER
    raw = bytes(report.attestationReport[: report.attestationReportSize])
    pem = bytes(chain.attestationCertChain[: chain.attestationCertChainSize])
    return {
        "arch": "HOPPER" if hopper else f"ARCHITECTURE {architecture}",
        "certificate": base64.b64encode(pem).decode(),
        "evidence": base64.b64encode(raw).decode(),
        "nonce": nonce.hex(),
    }


class GramineAttester:
    """SGX quotes from inside a Gramine enclave.

    Args:
        root: Gramine's pseudo files.
        collateral: Intel's collateral to send along, or nothing.
        gpu: collector of GPU evidence, or nothing.
    """

    kind = Kind.SGX

    def __init__(
        self, root: Path = GRAMINE, *, collateral: bytes = b"", gpu: GpuCollector | None = None
    ) -> None:
        self._root = root
        self._collateral = collateral
        self._gpu = gpu

    def collect(self, report_data: bytes) -> Evidence:
        """See `sealtune.attest.evidence.Attester`."""
        _check_report_data(report_data)
        if not self._root.is_dir():
            raise AttesterUnavailableError(
                f"no {self._root}: this process does not run in an SGX enclave under Gramine",
                hint='start it with gramine-sgx and sgx.remote_attestation = "dcap"',
            )
        try:
            kind = (self._root / "attestation_type").read_text().strip()
            if kind != "dcap":
                raise AttesterUnavailableError(
                    f"Gramine was started with remote attestation {kind!r}",
                    hint='set sgx.remote_attestation = "dcap" in the manifest template',
                )
            _write_once(self._root / "user_report_data", report_data)
            quote = trim_padding(_read(self._root / "quote"))
        except OSError as error:
            raise _unavailable("Gramine gave no quote", error) from error
        return Evidence(Kind.SGX, quote, self._collateral)

    def collect_gpu(self, nonce: bytes) -> bytes:
        """See `sealtune.attest.evidence.Attester`."""
        return self._gpu.collect(nonce) if self._gpu else b""


class TsmFiles:
    """The file operations on configfs; a test brings its own kernel."""

    def make(self, entry: Path) -> None:
        """Create a report entry; the kernel fills it with files."""
        entry.mkdir()

    def write(self, path: Path, data: bytes) -> None:
        """One write call; the kernel takes a blob only whole."""
        _write_once(path, data)

    def read(self, path: Path) -> bytes:
        """A whole file."""
        return _read(path)

    def remove(self, entry: Path) -> None:
        """Remove a report entry."""
        entry.rmdir()


class TsmAttester:
    """TDX quotes or SEV-SNP reports through configfs-tsm.

    Args:
        root: where configfs-tsm keeps its reports.
        collateral: Intel's collateral, or AMD's certificates where the host sends none.
        gpu: collector of GPU evidence, or nothing.
        files: file operations.
    """

    def __init__(
        self,
        root: Path = TSM,
        *,
        collateral: bytes = b"",
        gpu: GpuCollector | None = None,
        files: TsmFiles | None = None,
    ) -> None:
        self._root = root
        self._collateral = collateral
        self._gpu = gpu
        self._files = files or TsmFiles()
        self._kind: Kind | None = None

    @property
    def kind(self) -> Kind:
        """TDX or SEV-SNP, as the kernel says."""
        if self._kind is None:
            entry = self._open()
            try:
                self._kind = self._provider(entry)
            finally:
                self._files.remove(entry)
        return self._kind

    def collect(self, report_data: bytes) -> Evidence:
        """See `sealtune.attest.evidence.Attester`."""
        _check_report_data(report_data)
        entry = self._open()
        try:
            kind = self._provider(entry)
            before = int(self._files.read(entry / "generation"))
            self._files.write(entry / "inblob", report_data)
            raw = self._files.read(entry / "outblob")
            after = int(self._files.read(entry / "generation"))
            if after != before + 1:
                raise AttesterUnavailableError(
                    f"somebody else wrote to {entry} while a report was made"
                )
            sent = from_table(self._auxiliary(entry)) if kind is Kind.SEV_SNP else b""
        except (OSError, ValueError) as error:
            raise _unavailable("the kernel gave no report", error) from error
        finally:
            self._files.remove(entry)
        data = trim_padding(raw) if kind is Kind.TDX else raw[:REPORT_SIZE]
        return Evidence(kind, data, self._collateral or sent)

    def collect_gpu(self, nonce: bytes) -> bytes:
        """See `sealtune.attest.evidence.Attester`."""
        return self._gpu.collect(nonce) if self._gpu else b""

    def _open(self) -> Path:
        if not self._root.is_dir():
            raise AttesterUnavailableError(
                f"no {self._root}: this is no TDX or SEV-SNP guest, or its kernel is too old",
                hint="needs Linux 6.7 or later with configfs mounted and the module tdx_guest or "
                "sev_guest loaded",
            )
        entry = self._root / f"sealtune-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._files.make(entry)
        except OSError as error:
            raise _unavailable(f"cannot create {entry}", error) from error
        return entry

    def _provider(self, entry: Path) -> Kind:
        try:
            name = self._files.read(entry / "provider").decode("ascii", "replace").strip()
        except OSError as error:
            raise _unavailable(f"cannot read {entry}/provider", error) from error
        if name not in _PROVIDERS:
            raise AttesterUnavailableError(f"the kernel's report provider {name!r} is not known")
        return _PROVIDERS[name]

    def _auxiliary(self, entry: Path) -> bytes:
        try:
            return self._files.read(entry / "auxblob")
        except OSError:
            return b""  # the host keeps no certificates; the verifier must have them


def _check_report_data(report_data: bytes) -> None:
    if len(report_data) != REPORT_DATA_SIZE:
        raise AttesterUnavailableError(f"report data of {len(report_data)} bytes, not 64")


def _write_once(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(f"{path} took only a part of the data")
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_PART)


def _unavailable(what: str, error: Exception) -> AttesterUnavailableError:
    reason = getattr(error, "strerror", None) or error
    hint = (
        "run as root, or in the group that owns the file"
        if isinstance(error, PermissionError)
        else ""
    )
    return AttesterUnavailableError(f"{what}: {reason}", hint=hint)


def attester_for(kind: Kind, *, collateral: bytes = b"") -> GramineAttester | TsmAttester:
    """The attester of a hardware kind on this machine.

    Raises:
        AttesterUnavailableError: the kind cannot be made here; the message says what is missing.
    """
    if kind is Kind.SGX:
        return GramineAttester(collateral=collateral)
    if kind in (Kind.TDX, Kind.SEV_SNP):
        attester = TsmAttester(collateral=collateral)
        if attester.kind is not kind:
            raise AttesterUnavailableError(f"this guest makes {attester.kind} evidence, not {kind}")
        return attester
    raise AttesterUnavailableError(f"{kind} evidence is not made by an enclave of its own")
