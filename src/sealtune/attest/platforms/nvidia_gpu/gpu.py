"""NVIDIA GPUs in confidential-computing mode, through NVML.

Source: NVML API "Confidential Computing". Tested against a fake NVML only.

Trust domain: every enclave with a GPU.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import NONCE_SIZE, Kind
from sealtune.attest.platforms.base import MACHINE, Need, Platform
from sealtune.attest.platforms.device import there
from sealtune.attest.platforms.nvidia_gpu.report import NvidiaVerifier


class NvidiaGpu(Platform):
    """The GPUs of this machine.

    Args:
        root: see `Platform`.
        nvml: the ``pynvml`` module, or something that looks like it.
    """

    kind = Kind.NVIDIA_GPU

    def __init__(self, root: Path = MACHINE, nvml: Any | None = None) -> None:
        super().__init__(root)
        self._nvml = nvml

    def needs(self) -> list[Need]:
        """See `Platform`."""
        return [
            there(self.root, "dev/nvidiactl", "install NVIDIA's driver"),
            there(
                self.root,
                "dev/nvidia0",
                "this machine has no NVIDIA GPU, or the guest does not see it",
            ),
            Need(
                "package nvidia-ml-py",
                importlib.util.find_spec("pynvml") is not None,
                "pip install nvidia-ml-py",
            ),
            Need(
                "confidential computing switched on (H100 or H200)",
                None,
                "nvidia-smi conf-compute -f tells",
            ),
        ]

    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """See `Platform`: reports of all GPUs, in NVIDIA's JSON form."""
        if len(challenge) != NONCE_SIZE:
            raise AttesterUnavailableError(
                f"a GPU nonce has {NONCE_SIZE} bytes, not {len(challenge)}",
                hint="a GPU comes in addition to an enclave of sgx, tdx or sev-snp, never alone",
            )
        nvml = self._nvml or _pynvml()
        try:
            nvml.nvmlInit()
            try:
                _check_mode(nvml)
                handles = [
                    nvml.nvmlDeviceGetHandleByIndex(index)
                    for index in range(nvml.nvmlDeviceGetCount())
                ]
                entries = [_gpu_entry(nvml, handle, challenge) for handle in handles]
            finally:
                nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            raise AttesterUnavailableError(
                f"NVML gives no attestation report: {error}",
                hint="the GPU must support confidential computing and have it switched on",
            ) from error
        if not entries:
            raise AttesterUnavailableError("this machine has no NVIDIA GPU")
        return json.dumps(entries, separators=(",", ":")).encode(), b""

    def verifier(self, collateral: Sequence[bytes] = ()) -> NvidiaVerifier:
        """See `Platform`."""
        return NvidiaVerifier(collateral)


def _check_mode(nvml: Any) -> None:
    """Whether the driver protects what is on the GPUs; a report alone does not say so.

    Whoever believes it believes the enclave that asked: driver and NVML run inside of it.
    """
    state = nvml.nvmlSystemGetConfComputeState()
    faults = [
        fault
        for is_right, fault in (
            (
                state.environment == nvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD,
                "its environment is not that of production",
            ),
            (
                state.ccFeature == nvml.NVML_CC_SYSTEM_FEATURE_ENABLED,
                "confidential computing is switched off",
            ),
            (
                state.devToolsMode == nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF,
                "its developer tools are on: they can read what is on the GPU",
            ),
        )
        if not is_right
    ]
    if faults:
        raise AttesterUnavailableError(
            f"the GPU is not protected: {'; '.join(faults)}",
            hint="the host sets a GPU's mode, with it off the guest: CC on, devtools off",
        )


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
