"""What a machine must have to make evidence, and which of it is there.

Trust domain: the machine's operator; reads names of files only.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sealtune.attest.evidence import Kind

TSM_KERNEL = (6, 7)
_MARKS = {True: ("  found    ", "green"), False: ("  MISSING  ", "red"), None: ("  ?        ", "")}


@dataclass(frozen=True)
class Need:
    """One thing that is needed.

    Attributes:
        what: its name.
        there: whether it was found; None: that cannot be seen from here.
        remedy: what to do where it was not.
    """

    what: str
    there: bool | None
    remedy: str


def needs(kind: Kind, root: Path = Path("/"), release: str = "") -> list[Need]:
    """What evidence of ``kind`` needs, and whether it is there.

    Args:
        kind: of evidence.
        root: of the file system; a test brings its own.
        release: of the kernel; default: the running one's.
    """

    def path(name: str, remedy: str, what: str = "") -> Need:
        return Need(f"{what}/{name}", (root / name).exists(), remedy)

    match kind:
        case Kind.SGX:
            return [
                path("dev/sgx_enclave", "switch SGX on in the firmware; Linux 5.11 or later"),
                Need(
                    "command gramine-sgx",
                    shutil.which("gramine-sgx") is not None,
                    "install the package gramine (https://gramine.readthedocs.io)",
                ),
                path(
                    "dev/attestation",
                    'start this command inside Gramine, with sgx.remote_attestation = "dcap"',
                ),
            ]
        case Kind.TDX | Kind.SEV_SNP:
            guest, module = (
                ("a TDX guest", "tdx_guest")
                if kind is Kind.TDX
                else ("an SEV-SNP guest", "sev_guest")
            )
            found = release or platform.release()
            return [
                Need(
                    f"Linux {'.'.join(map(str, TSM_KERNEL))} or later (here: {found})",
                    _version(found) >= TSM_KERNEL,
                    "start a newer kernel in the guest",
                ),
                path(f"dev/{module}", f"this machine is not {guest}, or: modprobe {module}"),
                path(
                    "sys/kernel/config/tsm/report",
                    "mount -t configfs none /sys/kernel/config; "
                    f"the kernel needs CONFIG_TSM_REPORTS; modprobe {module}",
                ),
            ]
        case Kind.NVIDIA_GPU:
            return [
                path("dev/nvidiactl", "install NVIDIA's driver"),
                path("dev/nvidia0", "this machine has no NVIDIA GPU, or the guest does not see it"),
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
        case Kind.SIMULATED | Kind.PARTICIPANT:
            return []


def _version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def print_needs(kind: Kind) -> None:
    """List on stderr what is there and what is not."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"{kind} evidence needs:", "bold"))
    for need in needs(kind):
        text = need.what if need.there else f"{need.what}: {need.remedy}"
        console.print(Text.assemble(_MARKS[need.there], text))
