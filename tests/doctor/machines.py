"""Machines as made-up file trees, with what their pseudo files say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sealtune.doctor.machine import Clock, Machine

_BASE = {
    "proc/meminfo": "MemTotal:       65854324 kB\nMemAvailable:   50000000 kB\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    "proc/sys/kernel/osrelease": "6.12.9-amd64\n",
    "proc/sys/kernel/core_pattern": "core\n",
    "proc/sys/kernel/yama/ptrace_scope": "1\n",
    "proc/self/limits": "Max core file size        0            unlimited            bytes\n"
    "Max locked memory         67108864             67108864             bytes\n",
    "sys/power/state": "freeze mem\n",
    "dev/shm/": "",
}
INTEL, AMD = "Intel(R) Xeon(R) Platinum 8480+", "AMD EPYC 9354 32-Core Processor"
_VECTORS = "fpu sse2 avx2 avx512f avx512_vnni vaes avx512_bf16"


def lay(root: Path, files: dict[str, str]) -> None:
    """Write files; a name that ends in a slash is a folder."""
    for name, text in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def cpuinfo(model: str, flags: str, cores: int = 8) -> dict[str, str]:
    one = "processor\t: {}\nmodel name\t: {}\nflags\t\t: {}\n\n"
    return {"proc/cpuinfo": "".join(one.format(core, model, flags) for core in range(cores))}


def machine(root: Path, files: dict[str, str], **more: Any) -> Machine:
    """A sound machine without any special hardware, and ``files`` beside."""
    lay(root, _BASE | cpuinfo(INTEL, _VECTORS) | files)
    given: dict[str, Any] = {"clock": lambda: Clock(True, 0.01), "arithmetic": lambda: "int8"}
    given["library"] = lambda: ("avx512", None)
    return Machine(root, **(given | more))


def laptop(root: Path) -> Machine:
    return machine(
        root,
        {
            **cpuinfo("Intel(R) Core(TM) i5", "fpu sse2 avx2", 4),
            "proc/meminfo": "MemTotal:       8000000 kB\nMemAvailable:   1000000 kB\n",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/dm-1 partition 8388604 0 -2\n",
            "proc/sys/kernel/core_pattern": "|/lib/systemd/systemd-coredump %P\n",
            "proc/sys/kernel/yama/ptrace_scope": "0\n",
            "sys/power/state": "freeze mem disk\n",
            "sys/power/disk": "[platform] shutdown\n",
        },
        clock=lambda: Clock(False, 16.0),
        arithmetic=lambda: "float64",
    )


def sgx_server(root: Path) -> Machine:
    return machine(
        root,
        {
            **cpuinfo(INTEL, f"{_VECTORS} sgx sgx_lc"),
            "dev/sgx_enclave": "",
            "dev/sgx_provision": "",
            "var/run/aesmd/aesm.socket": "",
            "usr/bin/gramine-sgx": "",
            "sys/devices/system/node/node0/x86/sgx_total_bytes": f"{32 << 30}\n",
            "sys/devices/system/node/node1/x86/sgx_total_bytes": f"{32 << 30}\n",
        },
    )


def tdx_guest(root: Path) -> Machine:
    return machine(
        root,
        {
            **cpuinfo(INTEL, f"{_VECTORS} tdx_guest hypervisor"),
            "dev/tdx_guest": "",
            "sys/kernel/config/tsm/report/": "",
        },
    )


def snp_guest(root: Path) -> Machine:
    return machine(
        root,
        {
            **cpuinfo(AMD, f"{_VECTORS} hypervisor"),
            "dev/sev-guest": "",
            "sys/kernel/config/tsm/report/": "",
        },
    )


def snp_host(root: Path) -> Machine:
    return machine(
        root,
        {
            **cpuinfo(AMD, f"{_VECTORS} sev sev_es sev_snp"),
            "dev/sev": "",
            "dev/kvm": "",
            "dev/vhost-vsock": "",
            "sys/module/kvm_amd/parameters/sev_snp": "Y\n",
            "usr/bin/qemu-system-x86_64": "",
        },
        kvm=lambda: "works",
    )


def tdx_host(root: Path) -> Machine:
    files = {"dev/kvm": "", "sys/module/kvm_intel/parameters/tdx": "Y\n"}
    return machine(root, files, kvm=lambda: "works")


class FakeNvmlError(Exception):
    """As NVML's."""


class FakeNvml:
    """NVML of one H100, in one of its modes."""

    NVMLError = FakeNvmlError

    def __init__(self, feature: int, devtools: int, architecture: int = 9) -> None:
        self._state = SimpleNamespace(environment=1, ccFeature=feature, devToolsMode=devtools)
        self._architecture = architecture
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetArchitecture(self, handle: int) -> int:
        return self._architecture

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.90.07"

    def nvmlSystemGetConfComputeState(self) -> Any:
        return self._state


def smi(feature: str, devtools: str, capability: str = "9.0") -> Any:
    """nvidia-smi of an H100, which answers as NVIDIA's does."""
    answers = {
        "--query-gpu=name,driver_version,compute_cap": "NVIDIA H100 80GB HBM3, 550.90.07, "
        f"{capability}\n",
        "conf-compute -f": f"CC status: {feature}\n",
        "conf-compute -d": f"DevTools Mode: {devtools}\n",
    }

    def run(words: tuple[str, ...]) -> str | None:
        line = " ".join(words[1:]).removesuffix(" --format=csv,noheader")
        return answers.get(line) if words[0] == "nvidia-smi" else None

    return run
