"""UEFI firmware, as a TEE's guest has it, starts an image in emulation."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sealtune.errors import FederationError
from sealtune.images.image import Image
from sealtune.images.machine import find_qemu

FIRMWARE = Path("/usr/share/ovmf/OVMF.fd")  # Debian's package ovmf


@pytest.mark.slow
def test_firmware_hands_over_what_is_measured(aggregator: Image) -> None:
    """Kernel by its EFI stub, initial file system, and the command line with one word more."""
    if not FIRMWARE.is_file():
        pytest.skip(f"no {FIRMWARE}: apt-get install ovmf")
    try:
        qemu = find_qemu()
    except FederationError as error:
        pytest.skip(f"{error.message}; {error.hint}")
    cmdline = f"{aggregator.cmdline} loglevel=7"  # so that the kernel prints what it was handed
    command = [
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-serial", "stdio"),
        *("-bios", str(FIRMWARE), "-kernel", str(aggregator.vmlinuz)),
        *("-initrd", str(aggregator.initrd), "-append", cmdline),
    ]
    said = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                said += line
                if line.startswith(b"sealtune image: up"):
                    break
        finally:
            process.kill()
    text = said.decode("utf-8", "replace")
    assert "EFI stub: Loaded initrd" in text
    handed = text.partition("Command line: ")[2].splitlines()[0].strip()
    assert handed in (f"initrd=initrd {cmdline}", f"{cmdline} initrd=initrd")
    assert "sealtune image: up" in text
