"""The registers RTMR1 and RTMR2 that an image has in a TDX guest under QEMU, and the whole.

Firmware (edk2, ``OvmfPkg/IntelTdx/IntelTdxX64.dsc``) extends RTMR1 by the kernel that QEMU hands it
and by four events that are always the same; the kernel's EFI stub extends RTMR2 by the command line
and the initial file system. Here as by QEMU 10.1 and later, the first that start TDX guests: the
kernel is measured as it is in its file. With what came before (patches to QEMU 8) a header written
by QEMU is measured, which depends on the guest's memory. Firmware adds ``initrd=initrd`` to the
command line: before it, but edk2 up to 2025.02 after it.

MRTD and RTMR0 are the firmware's and the machine's shape, and come from elsewhere: a quote of the
same machine, whatever it booted, or the tool tdx-measure.

Sources: edk2 ``OvmfPkg/Tcg/TdTcg2Dxe``, ``QemuLoadImageLib``; Linux ``efi-stub-helper.c``; UEFI
2.10 section 38.4.1 (registers); Intel TDX Module Base Architecture, RTMR.

Trust domain: operator (untrusted), and whoever compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from sealtune.attest.platforms.intel.dcap import TD_REGISTERS, measurement_of
from sealtune.errors import ConfigError, Problem
from sealtune.images.authenticode import authenticode
from sealtune.images.image import Image

REGISTER = 48  # bytes
# What firmware extends RTMR1 by after the kernel.
RTMR1_EVENTS = (
    b"Calling EFI Application from Boot Option",
    bytes(4),  # the separator
    b"Exit Boot Services Invocation",
    b"Exit Boot Services Returned with Success",
)
_INITRD = "initrd=initrd"


def tdx_registers(image: Image, *, initrd_last: bool = False) -> dict[str, bytes]:
    """RTMR1 and RTMR2 of this image.

    Args:
        initrd_last: with firmware up to edk2 2025.02.

    Raises:
        ConfigError: the kernel is no PE image.
    """
    kernel = authenticode(image.vmlinuz.read_bytes())
    options = options_digest(image.cmdline, initrd_last=initrd_last)
    return {
        "RTMR1": extended([kernel, *map(sha384, RTMR1_EVENTS)]),
        "RTMR2": extended([options, sha384(image.initrd.read_bytes())]),
    }


def qemu_options(image: Image) -> list[str]:
    """What QEMU 10.1 or later must be started with; memory, processors, devices are in RTMR0."""
    quotes = {"type": "vsock", "cid": "2", "port": "4050"}  # Intel's service on the host
    guest = {"qom-type": "tdx-guest", "id": "tee", "quote-generation-socket": quotes}
    return [
        *("-machine", "q35,kernel-irqchip=split,confidential-guest-support=tee"),
        *("-object", json.dumps(guest), "-cpu", "host", "-bios", "OVMF.inteltdx.fd"),
        *("-kernel", str(image.vmlinuz), "-initrd", str(image.initrd), "-append", image.cmdline),
    ]


def options_digest(cmdline: str, *, initrd_last: bool = False) -> bytes:
    """Digest of the options that firmware gives the kernel: UTF-16 and a zero at the end."""
    words = (cmdline, _INITRD) if initrd_last else (_INITRD, cmdline)
    return sha384((" ".join(words) + "\0").encode("utf-16-le"))


def extended(digests: Iterable[bytes]) -> bytes:
    """A register that began as zeros and was extended by each of these."""
    register = bytes(REGISTER)
    for digest in digests:
        register = sha384(register + digest)
    return register


def sha384(data: bytes) -> bytes:
    """SHA-384."""
    return hashlib.sha384(data).digest()


def tdx_measurement(
    image: Image, machine: Mapping[str, bytes], *, initrd_last: bool = False
) -> bytes:
    """The measurement that a quote of this image must have, as a policy names it, 48 bytes.

    Args:
        image: what is booted.
        machine: MRTD and RTMR0, and any other of `td_registers` that is not zero.
        initrd_last: see `tdx_registers`.

    Raises:
        ConfigError: MRTD or RTMR0 is missing, a register is unknown, or has another size.
    """
    problems = [
        Problem(name, "is needed: from a quote of this machine, or from tdx-measure")
        for name in ("MRTD", "RTMR0")
        if not any(machine.get(name, b""))
    ]
    problems += [
        Problem(name, f"is no register of {REGISTER} bytes")
        for name, value in machine.items()
        if name not in TD_REGISTERS or len(value) != REGISTER
    ]
    if problems:
        raise ConfigError("registers of the TDX guest", problems)
    zeros = dict.fromkeys(TD_REGISTERS, bytes(REGISTER))
    registers = tdx_registers(image, initrd_last=initrd_last)
    return measurement_of({**zeros, **machine, **registers})
