"""NVIDIA GPUs, and whether they compute confidentially.

What is asked, in this order: NVML, nvidia-smi, and without both the driver's files and the PCI bus.
Source: NVML API "Confidential Computing"; nvidia-smi conf-compute.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sealtune.doctor.finding import Finding, State, found
from sealtune.doctor.machine import Machine

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI class of GPUs, with a screen or without
_HOPPER = 9  # of NVML's architectures and of compute capability: the first that can
_SMI = "nvidia-smi"
_NO_TOOL = "cannot be told without nvidia-smi or the package nvidia-ml-py"


@dataclass(frozen=True)
class _Gpus:
    """What was learned; None: not told."""

    models: tuple[str, ...]
    driver: str | None = None
    capable: bool | None = None
    confidential: bool | None = None
    devtools: bool | None = None


def gpus(machine: Machine) -> list[Finding]:
    """Everything on GPUs."""
    on_bus = _on_bus(machine)
    seen = _by_nvml(machine) or _by_smi(machine) or _by_files(machine)
    if seen is None or not seen.models:
        return [_none(on_bus, seen)]
    models = ", ".join(seen.models)
    return [
        Finding("gpu", State.GOOD, models, value=seen.models),
        found(
            "gpu.driver",
            seen.driver is not None,
            f"driver {seen.driver}" if seen.driver else "driver not told",
            "install NVIDIA's driver",
            install=("nvidia-driver",),
            value=seen.driver,
        ),
        _confidential(seen),
    ]


def _none(on_bus: int, seen: _Gpus | None) -> Finding:
    if on_bus:
        words = f"{on_bus} of NVIDIA's on the bus, which its driver does not show"
        remedy = "install NVIDIA's driver and restart"
        driver = ("nvidia-driver",)
        return Finding("gpu", State.POOR, words, remedy, driver, ())
    words = "NVIDIA's driver, and no GPU" if seen else "no NVIDIA GPU"
    return Finding("gpu", State.MISSING, words, "a machine with one; a CPU works, slowly", value=())


def _confidential(seen: _Gpus) -> Finding:
    key = "gpu.confidential"
    if seen.confidential and seen.devtools:
        words = "confidential computing in DEVTOOLS mode: its operator can read the GPU's memory"
        remedy = "nvidia_gpu_tools.py --set-cc-mode=on --reset-after-cc-mode-switch, on the host"
        return Finding(key, State.MISSING, words, remedy, value="devtools")
    if seen.confidential and seen.devtools is None:
        words = "confidential computing is on; whether in DevTools mode is not told"
        return Finding(key, State.UNKNOWN, words, "nvidia-smi conf-compute -d", value="unknown")
    if seen.confidential:
        return Finding(key, State.GOOD, "confidential computing is on", value="on")
    if seen.capable is False:
        words = "no confidential computing: this GPU is older than Hopper"
        return Finding(key, State.MISSING, words, "H100, H200 or later", value="unable")
    if seen.confidential is None:
        remedy = "install NVIDIA's tool, or: pip install nvidia-ml-py"
        return Finding(key, State.UNKNOWN, _NO_TOOL, remedy, ("nvidia-smi",), value="unknown")
    words = "confidential computing is off"
    remedy = (
        "in a TDX or SEV-SNP guest: nvidia_gpu_tools.py --set-cc-mode=on "
        "--reset-after-cc-mode-switch, on the host (NVIDIA's gpu-admin-tools)"
    )
    return Finding(key, State.MISSING, words, remedy, value="off")


def _on_bus(machine: Machine) -> int:
    folder = "sys/bus/pci/devices"
    return sum(
        machine.text(f"{folder}/{name}/vendor") == _NVIDIA
        and (machine.text(f"{folder}/{name}/class") or "").startswith(_DISPLAY)
        for name in machine.names(folder)
    )


def _by_nvml(machine: Machine) -> _Gpus | None:
    nvml = machine.nvml()
    if nvml is None:
        return None
    try:
        nvml.nvmlInit()
        try:
            return _ask_nvml(nvml)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return None


def _ask_nvml(nvml: Any) -> _Gpus:
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    confidential = devtools = None
    try:
        state = nvml.nvmlSystemGetConfComputeState()
        confidential, devtools = bool(state.ccFeature), bool(state.devToolsMode)
    except (nvml.NVMLError, AttributeError):
        pass  # an older library or driver, which does not know the question
    return _Gpus(
        tuple(_text(nvml.nvmlDeviceGetName(handle)) for handle in handles),
        _text(nvml.nvmlSystemGetDriverVersion()),
        all(nvml.nvmlDeviceGetArchitecture(handle) >= _HOPPER for handle in handles),
        confidential,
        devtools,
    )


def _text(value: bytes | str) -> str:
    """Older versions of the package give bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _by_smi(machine: Machine) -> _Gpus | None:
    query = "--query-gpu=name,driver_version,compute_cap"
    listed = machine.run((_SMI, query, "--format=csv,noheader"))
    if listed is None:
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    rows = [row for row in rows if len(row) == 3]
    capabilities = [re.match(r"\d+", row[2]) for row in rows]
    return _Gpus(
        tuple(row[0] for row in rows),
        rows[0][1] if rows else None,
        all(int(match[0]) >= _HOPPER for match in capabilities if match),
        _switch(machine.run((_SMI, "conf-compute", "-f"))),
        _switch(machine.run((_SMI, "conf-compute", "-d"))),
    )


def _switch(answer: str | None) -> bool | None:
    """``CC status: ON``, ``DevTools Mode: OFF``."""
    match = re.search(r":\s*(ON|OFF|ENABLED|DISABLED)\b", (answer or "").upper())
    return match[1] in ("ON", "ENABLED") if match else None


def _by_files(machine: Machine) -> _Gpus | None:
    folder = "proc/driver/nvidia"
    if not machine.exists(folder):
        return None
    models = []
    for name in machine.names(f"{folder}/gpus"):
        text = machine.text(f"{folder}/gpus/{name}/information") or ""
        match = re.search(r"^Model:\s*(.+)$", text, re.M)
        models.append(match[1].strip() if match else "an NVIDIA GPU")
    version = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", machine.text(f"{folder}/version") or "")
    return _Gpus(tuple(models), version[1] if version else None)
