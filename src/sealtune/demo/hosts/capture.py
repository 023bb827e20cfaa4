"""Writes every frame of a device to a pcap file, until standard input ends.

    python -I -m sealtune.demo.hosts.capture NETWORK DEVICE FILE

Says ``ready`` when it listens, and at the end how many frames the kernel dropped.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

from sealtune.demo.hosts.kernel import enter_network

_ALL = 0x0003  # ETH_P_ALL, <linux/if_ether.h>
_SOL_PACKET, _STATISTICS = 263, 6  # <linux/if_packet.h>
_FORCE_BUFFER = 33  # SO_RCVBUFFORCE
_BUFFER = 64 << 20  # bytes
_SNAP = 1 << 18  # bytes of one frame; segments that a card would cut up are longer than its MTU
_ETHERNET = 1


def header() -> bytes:
    """The start of a pcap file of Ethernet frames (libpcap's format 2.4, microseconds)."""
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAP, _ETHERNET)


def record(frame: bytes, seconds: float) -> bytes:
    """One frame of a pcap file."""
    whole = int(seconds)
    return struct.pack("<IIII", whole, int((seconds - whole) * 1e6), len(frame), len(frame)) + frame


def write(packets: socket.socket, end: int, file: BinaryIO) -> None:
    """Write what comes until ``end`` can be read, and what had come by then."""
    file.write(header())
    while True:
        ready = select.select([packets.fileno(), end], [], [])[0]
        if packets.fileno() in ready:
            file.write(record(packets.recv(_SNAP), time.time()))
        elif ready:
            return


def main(network: str, device: str, path: Path) -> None:
    """Listen, write, and say what was lost."""
    enter_network(network)
    with (
        path.open("wb") as file,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as packets,
    ):
        packets.setsockopt(socket.SOL_SOCKET, _FORCE_BUFFER, _BUFFER)
        packets.bind((device, 0))
        print("ready", flush=True)
        write(packets, sys.stdin.fileno(), file)
        _, dropped = struct.unpack("II", packets.getsockopt(_SOL_PACKET, _STATISTICS, 8))
    print(dropped, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
