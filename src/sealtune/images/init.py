#!/usr/bin/python3.11 -IBS
"""The first process of an image: makes the machine ready, runs the program, ends the machine.

    /dev/ttyS0        console: the kernel's, this file's and the program's messages
    /dev/ttyS1        the program's events go out; the line "stop" comes in; "exit CODE" is the last
    in, model         the host's files, by 9p: copied into memory before the program starts
    folder, history   the host's folders for sealed state, results and a site's log of jobs
    eth0              the one port at which the program listens

Nothing from the host is believed here: the program verifies the manifest, its own code and what it
finds, and seals what it writes. The host decides when the machine runs, not what. Runs on Python's
library alone.

Trust domain: the enclave that the image is for.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
import termios
import threading
import time
import traceback
import tty

PYTHON = "/usr/bin/python3.11"
START = "/opt/sealtune/start.py"
PROGRAM = "/etc/program"
MODULES = "/lib/modules"
ORDER = "/etc/modules.order"
EVENTS = "/dev/ttyS1"
IN = "/run/in"  # the host's files, in memory
MODEL = "/run/model"
FOLDER, HISTORY = "/folder", "/history"
LOCAL = f"{IN}/local.json"
SIMULATED_KEY = "insecure-simulated"  # folder in IN: the program's $XDG_DATA_HOME
ADDRESS, MASK = "10.0.2.15", "255.255.255.0"  # of QEMU's user network
_MOUNTS = (
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
    ("configfs", "/sys/kernel/config", "configfs"),  # where the kernel gives reports
)
_ENVIRONMENT = {
    "HOME": "/root",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TRANSFORMERS_OFFLINE": "1",
    "XDG_DATA_HOME": f"{IN}/{SIMULATED_KEY}",
}
# MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOSYMFOLLOW of <sys/mount.h>: no link of the host's leads
# into the machine's own files
_FOREIGN = 2 | 4 | 8 | 256
_9P = "trans=virtio,version=9p2000.L,msize=524288"
_FINIT_MODULE = 313  # <asm/unistd_64.h>
_POWER_OFF = 0x4321FEDC  # <linux/reboot.h>
_SET_ADDRESS, _SET_FLAGS, _SET_MASK = 0x8916, 0x8914, 0x891C  # <linux/sockios.h>
_UP_RUNNING = 0x41
_C = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Run the program; returns its exit code."""
    make_ready()
    with open(PROGRAM, encoding="ascii") as file:
        program = file.read().strip()
    with open(EVENTS, "r+b", buffering=0) as events:
        tty.setraw(events.fileno())
        code = 1
        try:
            say("starting", program)
            code = run([PYTHON, "-I", "-B", "-u", START, program, LOCAL], events.fileno())
        finally:
            say("ended with code", code)
            events.write(f"\nexit {code}\n".encode())
            termios.tcdrain(events.fileno())
    return code


def make_ready() -> None:
    """Mounts, modules, network, and the host's files.

    Raises:
        OSError: the kernel or the host lacks something.
    """
    os.umask(0o077)
    for source, place, kind in _MOUNTS[:-1]:
        mount(source, place, kind)
    say("up after", uptime())
    with open(ORDER, encoding="ascii") as file:
        for name in file.read().split():
            load_module(f"{MODULES}/{name}")
    mount(*_MOUNTS[-1])
    set_up_network()
    copy_in("in", IN)
    with open(LOCAL, encoding="utf-8") as file:  # which folders the host has for this party
        local = json.load(file)
    if local.get("model"):
        copy_in("model", MODEL)
    mount("folder", FOLDER, "9p", _FOREIGN, _9P)
    if local.get("history"):
        mount("history", HISTORY, "9p", _FOREIGN, _9P)
    say("ready after", uptime())


def copy_in(share: str, place: str) -> None:
    """Copy the host's files into memory: what is verified there stays as it was verified."""
    os.makedirs("/run/host", exist_ok=True)
    mount(share, "/run/host", "9p", _FOREIGN, _9P)
    shutil.copytree("/run/host", place)
    _checked(_C.umount(b"/run/host"), "umount")


def mount(source: str, place: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system."""
    names = (source.encode(), place.encode(), kind.encode())
    _checked(_C.mount(*names, ctypes.c_ulong(flags), options.encode()), f"mount {place}")


def load_module(path: str) -> None:
    """Load one module; those of a TEE that this machine is not refuse, and that is all right."""
    with open(path, "rb") as file:
        result = _C.syscall(_FINIT_MODULE, file.fileno(), b"", 0)
    if result != 0:
        say(f"{path} was not loaded: {os.strerror(ctypes.get_errno())}")


def set_up_network() -> None:
    """Give both cards their addresses; there is no route, so nothing but the host is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for card, address, mask in (("lo", "127.0.0.1", "255.0.0.0"), ("eth0", ADDRESS, MASK)):
            for request, value in ((_SET_ADDRESS, address), (_SET_MASK, mask)):
                packed = struct.pack("<16sHH4s8x", card.encode(), 2, 0, socket.inet_aton(value))
                fcntl.ioctl(sock, request, packed)
            fcntl.ioctl(sock, _SET_FLAGS, struct.pack("<16sh14x", card.encode(), _UP_RUNNING))


def run(command: list[str], events: int) -> int:
    """Run the program with its events going out; returns its exit code, as shells count."""
    outputs = [(os.POSIX_SPAWN_DUP2, events, 1)]
    child = os.posix_spawn(command[0], command, _ENVIRONMENT, file_actions=outputs)
    threading.Thread(target=stop_when_asked, args=(events, child), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def stop_when_asked(events: int, child: int) -> None:
    """Wait for the host's line, then ask the program to end."""
    line = b""
    while not line.endswith(b"stop\n"):
        line = line[-8:] + os.read(events, 1)
    os.kill(child, signal.SIGTERM)


def say(*words: object) -> None:
    """Tell the console."""
    print("sealtune image:", *words, flush=True)


def uptime() -> str:
    """Seconds since the kernel started."""
    return f"{time.clock_gettime(time.CLOCK_BOOTTIME):.2f} s"


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    finally:
        os.sync()
        _C.reboot(_POWER_OFF)
