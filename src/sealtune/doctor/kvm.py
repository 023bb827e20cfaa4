"""Run two instructions under KVM and print how that ended: ``python -I kvm.py``.

A device that exists proves little: a nested hypervisor may offer it and fail at the first entry.
Source: Linux Documentation/virt/kvm/api.rst.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

_API = 12
_GET_API_VERSION, _CREATE_VM, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
_CREATE_VCPU, _SET_USER_MEMORY_REGION, _SET_TSS_ADDR, _RUN = 0xAE41, 0x4020AE46, 0xAE47, 0xAE80
_TSS = 0x10000000  # three free pages that old processors of Intel want in real mode
_PAGE = 4096
_FIRST_INSTRUCTION = 0xFFFFFFF0  # where an x86 processor begins
# popcnt, hlt: an emulator behind a nested hypervisor may know the second and not the first
_CODE = b"\xf3\x0f\xb8\xc0\xf4"
_EXIT_AT = 8  # struct kvm_run: exit_reason
_EXITS = {5: "works", 8: "shutdown", 9: "failed entry", 17: "internal error"}


def attempt() -> str:
    """How it ended, in a word or two."""
    try:
        return _attempt()
    except OSError as error:
        return f"{error.strerror}"


def _attempt() -> str:
    device = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(device, _GET_API_VERSION, 0) != _API:
        return "unknown version"
    machine = fcntl.ioctl(device, _CREATE_VM, 0)
    fcntl.ioctl(machine, _SET_TSS_ADDR, _TSS)
    memory = mmap.mmap(-1, _PAGE)
    at = _FIRST_INSTRUCTION % _PAGE
    memory[at : at + len(_CODE)] = _CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("<IIQQQ", 0, 0, _FIRST_INSTRUCTION - at, _PAGE, address)
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, region)
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    state = mmap.mmap(processor, fcntl.ioctl(device, _GET_VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(processor, _RUN, 0)
    (reason,) = struct.unpack_from("<I", state, _EXIT_AT)
    return _EXITS.get(reason, f"exit {reason}")


if __name__ == "__main__":
    print(attempt())
