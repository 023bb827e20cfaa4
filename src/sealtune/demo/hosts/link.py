"""A link with a delay and a rate: frames from one tap device to another, both ways.

    python -I -m sealtune.demo.hosts.link SETTINGS

For kernels without ``netem``. One process holds a device in the host's namespace and one in the
switch's. It ends when its standard input does.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

from sealtune.demo.hosts.kernel import enter_network

_SET_DEVICE = 0x400454CA  # TUNSETIFF, <linux/if_tun.h>
_TAP, _NO_HEADER = 0x0002, 0x1000
_MAX_FRAME = 65536
_FRAMES = 64  # read from one device before the other is looked at


@dataclass
class Pipe:
    """One direction: paces frames, then delays them; what does not fit is dropped, as routers do.

    Time is whatever the caller says, in seconds.

    Attributes:
        delay: seconds one way.
        rate: bits a second; 0: as many as come.
        limit: bytes that may wait to be sent.
    """

    delay: float
    rate: float
    limit: int
    _free: float = 0.0  # when the line has sent all it was given
    _way: deque[tuple[float, bytes]] = field(default_factory=deque)

    def offer(self, frame: bytes, now: float) -> bool:
        """Take a frame in; False: dropped."""
        start = max(now, self._free)
        if self.rate:
            if (start - now) * self.rate / 8 + len(frame) > self.limit:
                return False
            start += len(frame) * 8 / self.rate
        self._free = start
        self._way.append((start + self.delay, frame))
        return True

    def arrived(self, now: float) -> list[bytes]:
        """Frames that have come out by ``now``, in order."""
        frames = []
        while self._way and self._way[0][0] <= now:
            frames.append(self._way.popleft()[1])
        return frames

    @property
    def due(self) -> float:
        """When the next frame comes out; infinity: there is none."""
        return self._way[0][0] if self._way else float("inf")


def open_tap(name: str) -> int:
    """A tap device in this network namespace, as a descriptor that does not block."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _SET_DEVICE, struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER))
    return device


def forward(devices: tuple[int, int], pipes: tuple[Pipe, Pipe], end: int) -> None:
    """Carry frames of ``devices`` through ``pipes`` until ``end`` can be read."""
    while True:
        wait = min(pipe.due for pipe in pipes) - time.monotonic()
        timeout = max(wait, 0) if wait != float("inf") else None
        ready = select.select([*devices, end], [], [], timeout)[0]
        if end in ready:
            return
        for device, pipe in zip(devices, pipes, strict=True):
            if device in ready:
                _take(device, pipe)
        now = time.monotonic()
        for device, pipe in zip(reversed(devices), pipes, strict=True):
            for frame in pipe.arrived(now):
                with contextlib.suppress(OSError):  # that side is down, or full
                    os.write(device, frame)


def _take(device: int, pipe: Pipe) -> None:
    for _ in range(_FRAMES):
        try:
            frame = os.read(device, _MAX_FRAME)
        except OSError:  # no more, or this side is down
            return
        pipe.offer(frame, time.monotonic())


def main(settings: str) -> None:
    """Make both devices, say so, and carry frames."""
    given = json.loads(settings)
    devices = []
    for network, name in given["ends"]:
        enter_network(network)
        devices.append(open_tap(name))
    delay, rate, limit = given["delay"], given["rate"], given["limit"]
    print("ready", flush=True)
    pipes = (Pipe(delay, rate, limit), Pipe(delay, rate, limit))
    forward((devices[0], devices[1]), pipes, sys.stdin.fileno())


if __name__ == "__main__":
    main(sys.argv[1])
