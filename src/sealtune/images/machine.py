"""QEMU and the programs around it: which are here, how they are started.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sealtune.errors import FederationError
from sealtune.images.handed import DIALLED, PORT, READ
from sealtune.images.image import Image
from sealtune.images.init import ADDRESS
from sealtune.launch.environment import sealtune_command

QEMU = "qemu-system-x86_64"
# MiB that a program needs beside the image itself
_MEMORY = {"aggregator": 512, "site-enclave": 3072, "split-server": 3072}
# devices see what the guest gives them, as a TEE's guest must have it, and not all of its memory
_SHARED = "disable-legacy=on,iommu_platform=on"
_PATIENCE = 10.0  # seconds


def find_qemu() -> str:
    """QEMU's program.

    Raises:
        FederationError: it is not installed.
    """
    found = shutil.which(QEMU)
    if found is None:
        raise FederationError(
            f"{QEMU} is not installed: images are booted with it",
            hint="apt-get install qemu-system-x86 (Debian's name)",
        )
    return found


def acceleration(image: Image) -> str:
    """``kvm`` where a short boot of the image's kernel with it works; else software emulation."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    command = [*_base(image, "kvm"), "-m", "256", "-append", image.cmdline]
    said = b""
    with subprocess.Popen(
        [*command, "-serial", "stdio"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        end = time.monotonic() + _PATIENCE
        while b"Kernel panic" not in said and b"error" not in said and time.monotonic() < end:
            said += process.stdout.read(4096) or b""
            if process.poll() is not None:
                break
            time.sleep(0.02)
        process.kill()
    return "kvm" if b"Kernel panic" in said else "tcg"  # it got as far as to miss its files


def _base(image: Image, accel: str) -> list[str]:
    cpu = "host" if accel == "kvm" else "max"
    return [
        *(find_qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", accel, "-cpu", cpu, "-kernel", str(image.vmlinuz)),
    ]


def default_memory(image: Image, model: Path | None) -> int:
    """MiB that are enough for small jobs: the image twice while it unpacks, and the program's."""
    size = image.initrd.stat().st_size
    files = model.rglob("*") if model else ()
    weights = sum(path.stat().st_size for path in files if path.is_file())
    return _MEMORY[image.contents.program] + (2 * size + 3 * weights >> 20)


def qemu_command(
    image: Image,
    accel: str,
    memory: int,
    processors: int,
    port: int,
    shares: Mapping[str, Path],
    console: Path,
    dialled: Mapping[str, str],
    more: Sequence[str],
) -> list[str]:
    """QEMU, with nothing in the machine that the program does not need.

    Args:
        memory: MiB.
        port: on 127.0.0.1, which leads to the program's. Nothing leads out of the machine, but to
            accelerators.
        shares: name -> folder that the machine sees; what it only reads, it cannot write.
        console: file for what the kernel and the program print.
        dialled: key of ``DIALLED`` -> address; empty for none.
        more: options that come last, such as those of a TEE.
    """
    network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-{ADDRESS}:{PORT}"
    for name, address in dialled.items():
        if address:
            pipe = sealtune_command("sealtune.images.bridge", address)
            network += ",guestfwd=tcp:{}:{}-cmd:".format(*DIALLED[name])
            network += " ".join(pipe).replace(",", ",,")
    command = [
        *_base(image, accel),
        *("-initrd", str(image.initrd), "-append", image.cmdline),
        *("-m", str(memory), "-smp", str(processors)),
        *("-chardev", f"file,id=console,append=on,path={_quoted(console)}"),
        *("-serial", "chardev:console"),
        *("-chardev", "stdio,id=events,signal=off", "-serial", "chardev:events"),
        *("-netdev", network, "-device", f"virtio-net-pci,netdev=net,romfile=,{_SHARED}"),
    ]
    for name, folder in shares.items():
        readonly = "on" if name in READ else "off"
        where = f"local,id={name},path={_quoted(folder)},security_model=none,readonly={readonly}"
        command += [
            "-fsdev",
            where,
            "-device",
            f"virtio-9p-pci,fsdev={name},mount_tag={name},{_SHARED}",
        ]
    return [*command, *more]


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")
