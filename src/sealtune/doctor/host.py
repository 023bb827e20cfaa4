"""The rest of the machine: kernel, virtual machines, clock, disk, ports, files of keys.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sealtune.doctor.finding import Finding, State, found, safe
from sealtune.doctor.machine import Machine

_KERNEL = (5, 11)  # SGX; guests of TDX and SEV-SNP need more, which their own findings say
_GIB = 2**30
_LITTLE, _LEAST = 10, 1  # GiB free
_ERROR = 1.0  # seconds


def host(machine: Machine) -> list[Finding]:
    """What is looked at without arguments."""
    return [_kernel(machine), *_virtual(machine), _clock(machine)]


def _kernel(machine: Machine) -> Finding:
    release = machine.text("proc/sys/kernel/osrelease")
    match = re.match(r"(\d+)\.(\d+)", release or "")
    new = (int(match[1]), int(match[2])) >= _KERNEL if match else None
    remedy = "Linux {}.{} or later".format(*_KERNEL)
    words = f"Linux {release}" if release else "kernel not told"
    return found("kernel", new, words, remedy, value=release)


def _virtual(machine: Machine) -> list[Finding]:
    """Virtual machines: those of images that `sealtune image run` starts."""
    qemu = machine.has_program("qemu-system-x86_64")
    vsock = machine.exists("dev/vhost-vsock")
    return [
        _kvm(machine),
        found(
            "qemu",
            qemu,
            "qemu-system-x86_64" if qemu else "no qemu-system-x86_64",
            "to run images: apt install qemu-system-x86",
            install=("qemu-system-x86",),
        ),
        found(
            "vsock",
            vsock,
            "/dev/vhost-vsock" if vsock else "no /dev/vhost-vsock",
            "modprobe vhost_vsock; images are reached over TCP",
        ),
    ]


def _kvm(machine: Machine) -> Finding:
    if not machine.exists("dev/kvm"):
        remedy = "virtualisation on in the firmware, modprobe kvm_intel or kvm_amd"
        return Finding("kvm", State.MISSING, "no /dev/kvm", remedy, value="none")
    how = machine.kvm()
    if how == "works":
        return Finding("kvm", State.GOOD, "KVM works: tried", value=how)
    if how is None:
        return Finding("kvm", State.UNKNOWN, "/dev/kvm is there, not tried", value=None)
    words = f"/dev/kvm is there and does not work: {how}"
    denied = "ermission" in how
    remedy = (
        "join the group kvm"
        if denied
        else "use a machine that is none itself; without KVM images run in slow emulation"
    )
    return Finding("kvm", State.POOR, words, remedy, value=how)


def _clock(machine: Machine) -> Finding:
    clock = machine.clock()
    told = None if clock is None else clock.synchronised and clock.error <= _ERROR
    if clock is None:
        words = "clock: nothing known"
    elif clock.synchronised:
        words = f"clock is synchronised, wrong by at most {clock.error:.2g} s"
    else:
        words = "clock is not synchronised"
    remedy = (
        "a time service (chrony, or timedatectl set-ntp true): manifests, certificates and "
        "collateral hold for a time only"
    )
    value = clock.error if clock is not None and clock.synchronised else None
    clock_finding = safe("clock", told, words, remedy, value)
    return clock_finding if told else replace(clock_finding, install=("chrony",))


def disk(folder: Path) -> Finding:
    """Space for state: checkpoints, runs, images."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("disk", State.UNKNOWN, f"{folder}: {error.strerror}")
    words = f"{free / _GIB:.1f} GiB free at {folder}"
    state = (
        State.GOOD
        if free >= _LITTLE * _GIB
        else State.POOR
        if free >= _LEAST * _GIB
        else State.MISSING
    )
    if not os.access(place, os.W_OK):
        return Finding("disk", State.MISSING, f"{place} cannot be written to", "another folder")
    return Finding("disk", state, words, f"at least {_LITTLE} GiB for state", value=free)


def ports(numbers: Iterable[int]) -> list[Finding]:
    """Whether each port can be listened at, tried on all addresses for a moment."""
    return [_port(number) for number in numbers]


def _port(number: int) -> Finding:
    key = f"port.{number}"
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("0.0.0.0", number))
            one.listen(1)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is taken" if taken else f"cannot be used: {error.strerror}"
            remedy = "choose another, or end what listens there (ss -ltnp)"
            return Finding(key, State.MISSING, f"port {number} {why}", remedy)
    return Finding(key, State.GOOD, f"port {number} is free")


def key_files(paths: Sequence[Path]) -> list[Finding]:
    """Whether others can read or replace files that should be their owner's alone."""
    return [_key_file(path) for path in paths]


def _key_file(path: Path) -> Finding:
    key = f"key.{path}"
    try:
        status = path.stat()
    except OSError as error:
        return Finding(key, State.MISSING, f"{path}: {error.strerror}", "name the right file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        words = f"{path} can be read or changed by others (mode {mode:04o})"
        return Finding(key, State.MISSING, words, f"chmod 600 {path}")
    if status.st_uid not in (os.getuid(), 0):
        words = f"{path} belongs to user {status.st_uid}"
        return Finding(key, State.MISSING, words, f"chown $USER {path}")
    return Finding(key, State.GOOD, f"{path} is its owner's alone (mode {mode:04o})")
