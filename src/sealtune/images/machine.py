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
from sealtune.images.handed import ACCELERATOR, PORT
from sealtune.images.image import Image
from sealtune.images.init import ADDRESS
from sealtune.launch.child import tied
from sealtune.launch.environment import sealtune_command

QEMU = "qemu-system-x86_64"
# MiB that a program needs beside the image itself
_MEMORY = {"aggregator": 512, "site-enclave": 3072, "split-server": 3072}
_SHARED_FILES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")  # newer and older Debian
_PATIENCE = 10.0  # seconds


def find_qemu() -> str:
    """QEMU's program.

    Raises:
        FederationError: it is not installed.
    """
    return shutil.which(QEMU) or _missing(QEMU, "qemu-system-x86")


def find_virtiofsd() -> str:
    """The program that shows a folder of the host to the machine.

    Raises:
        FederationError: it is not installed.
    """
    found = [path for path in (shutil.which("virtiofsd"), *_SHARED_FILES) if path]
    there = [path for path in found if os.access(path, os.X_OK)]
    return there[0] if there else _missing("virtiofsd", "qemu-system-common, or virtiofsd")


def _missing(program: str, package: str) -> str:
    raise FederationError(
        f"{program} is not installed: images are booted with it",
        hint=f"apt-get install {package} (Debian's name)",
    )


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


def _base(image: Image, accel: str, machine: str = "q35") -> list[str]:
    cpu = "host" if accel == "kvm" else "max"
    return [
        *(find_qemu(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", machine, "-accel", accel, "-cpu", cpu, "-kernel", str(image.vmlinuz)),
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
    sockets: Mapping[str, Path],
    console: Path,
    accelerator: str,
) -> list[str]:
    """QEMU, with nothing in the machine that the program does not need.

    Args:
        memory: MiB.
        port: on 127.0.0.1, which leads to the program's. Nothing leads out of the machine, but to
            the accelerator.
        sockets: name -> where a ``virtiofsd`` shows that folder.
        console: file for what the kernel and the program print.
        accelerator: address; empty for none.
    """
    network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-{ADDRESS}:{PORT}"
    if accelerator:
        pipe = sealtune_command("sealtune.images.bridge", accelerator)
        network += ",guestfwd=tcp:{}:{}-cmd:".format(*ACCELERATOR)
        network += " ".join(pipe).replace(",", ",,")
    command = [
        *_base(image, accel, "q35,memory-backend=memory"),
        *("-initrd", str(image.initrd), "-append", image.cmdline),
        *("-m", str(memory), "-smp", str(processors)),
        *("-object", f"memory-backend-memfd,id=memory,size={memory}M,share=on"),
        *("-chardev", f"file,id=console,append=on,path={_quoted(console)}"),
        *("-serial", "chardev:console"),
        *("-chardev", "stdio,id=events,signal=off", "-serial", "chardev:events"),
        *("-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="),
    ]
    for name, socket in sockets.items():
        command += ["-chardev", f"socket,id={name},path={_quoted(socket)}"]
        command += ["-device", f"vhost-user-fs-pci,chardev={name},tag={name}"]
    return command


def show_folder(folder: Path, socket: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start what shows one folder to one machine, and wait until it can be reached.

    Raises:
        FederationError: it ended at once, or is not installed.
    """
    command = [find_virtiofsd(), f"--socket-path={socket}", "-o", f"source={folder}"]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            tied(command), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream
        )
    end = time.monotonic() + _PATIENCE
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise FederationError(
                f"virtiofsd does not show {folder} to the machine: {''.join(said)}",
                hint="on Debian 12 it has to be started by root",
            )
        time.sleep(0.01)
    return process


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End what is still running."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
