"""The launch measurement that an image has in an SEV-SNP guest under QEMU.

The host starts the guest with ``-kernel``, ``-initrd``, ``-append`` and ``kernel-hashes=on``: QEMU
puts SHA-256 of the three into a page of the firmware that is measured at launch, and the firmware
takes no others. This needs a build of edk2's ``OvmfPkg/AmdSev/AmdSevX64.dsc``: other builds have no
such page, so their measurement says nothing of the kernel.

Source: AMD SEV Secure Nested Paging Firmware ABI (56860), SNP_LAUNCH_UPDATE and PAGE_INFO, as the
package sev-snp-measure computes it.

Trust domain: operator (untrusted), and whoever compares.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sealtune.errors import ConfigError, Problem
from sealtune.images.image import Image
from sealtune.job.storage import read_bounded

_LARGEST = 32 << 20  # bytes of firmware; edk2 makes 2 or 4 MiB
_PAGE = 4096
_SUPPORTED = "build edk2's OvmfPkg/AmdSev/AmdSevX64.dsc (docs/hardware-snp.md)"


class SnpLaunch(BaseModel):
    """What the host gives beside the image.

    Attributes:
        ovmf: the firmware's file, given to QEMU as ``-bios``.
        vcpus: number of virtual processors, ``-smp``.
        vcpu_type: QEMU's model of them, ``-cpu``, such as ``EPYC-Genoa``.
        guest_features: SEV_FEATURES of a processor's state: 1 is SNP alone, which Linux uses; 0x21
            has debug swap, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ovmf: Path
    vcpus: int = Field(ge=1, le=512)
    vcpu_type: str
    guest_features: int = Field(default=1, ge=1, lt=2**64)


def snp_measurement(image: Image, launch: SnpLaunch) -> bytes:
    """The measurement that a report of this image must have, 48 bytes.

    Raises:
        ConfigError: the firmware is none that measures a kernel, or QEMU has no such processor.
    """
    from sevsnpmeasure import guest, vcpu_types
    from sevsnpmeasure.sev_mode import SevMode

    signature = vcpu_types.CPU_SIGS.get(launch.vcpu_type)
    if signature is None:
        known = ", ".join(sorted(vcpu_types.CPU_SIGS))
        raise ConfigError("--vcpu-type", [Problem(launch.vcpu_type, f"is none of {known}")])
    _check_firmware(launch.ovmf)
    try:
        measured: bytes = guest.calc_launch_digest(
            SevMode.SEV_SNP,
            launch.vcpus,
            signature,
            str(launch.ovmf),
            str(image.vmlinuz),
            str(image.initrd),
            image.cmdline,
            launch.guest_features,
        )
    except Exception as error:  # of any kind: it parses a file that may be anything
        raise _refused(launch.ovmf, f"cannot be measured: {error}") from error
    return measured


def qemu_options(image: Image, launch: SnpLaunch) -> list[str]:
    """What QEMU 9.1 or later must be started with to give this measurement; the rest is free."""
    # bit 17 of the policy must be set; bit 16 lets the machine have SMT, and the report says so
    guest = "sev-snp-guest,id=tee,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on"
    return [
        *("-machine", "q35,confidential-guest-support=tee", "-object", guest),
        *("-cpu", launch.vcpu_type, "-smp", str(launch.vcpus), "-bios", str(launch.ovmf)),
        *("-kernel", str(image.vmlinuz), "-initrd", str(image.initrd), "-append", image.cmdline),
    ]


def _check_firmware(path: Path) -> None:
    """Refuse what is no firmware, or does not measure a kernel."""
    from sevsnpmeasure.ovmf import OVMF, SectionType

    data = read_bounded(path, _LARGEST, lambda said: _refused(path, said))
    if not data or len(data) % _PAGE:
        raise _refused(path, "is no firmware: its size is no multiple of 4096 bytes")
    try:
        ovmf = OVMF(str(path))
        complete = ovmf.has_metadata_section(SectionType.SNP_KERNEL_HASHES)
        hashes = ovmf.is_sev_hashes_table_supported()
    except Exception as error:  # of any kind, as above
        raise _refused(path, f"is no firmware for SEV-SNP: {error}") from error
    if not complete or not hashes:
        raise _refused(path, "measures no kernel: it has no page for hashes of kernel and initrd")


def _refused(path: Path, said: str) -> ConfigError:
    return ConfigError(str(path), [Problem("firmware", said)], hint=_SUPPORTED)
