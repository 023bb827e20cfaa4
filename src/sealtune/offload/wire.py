"""How enclave and accelerator talk: frames over a socket, bulk data in shared memory if near.

Requests, each answered by one frame (``error`` with a ``message`` where it failed):

    arena    {"bytes": n} + a file descriptor   use this shared memory from now on; -> ok
    product  {"group", "backward", "rows"}      codes in the arena or body; -> product, likewise
    prefix   {"batch", "length"}                int64 token ids in the body; -> prefix {"dim"}, body
    bye      {}                                 -> the connection ends

Over TCP there is no arena and codes travel in the frames' bodies; everything else is the same.

Trust domain: both sides of the boundary; carries only what the accelerator may see.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket

import torch
from torch import Tensor

from sealtune.errors import FrameError

MAX_BODY = 1 << 31  # bytes of one product or prefix
MAX_ARENA = 1 << 31
_ALIGN = 1 << 12
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Arena:
    """Anonymous shared memory: requests are written at its start, answers too.

    Whatever is read from it is copied first: the other side could change it meanwhile.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._map = mmap.mmap(descriptor, size)
        self._bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    @classmethod
    def create(cls, size: int) -> Arena:
        """New anonymous memory of at least ``size`` bytes, gone when both sides let go."""
        size = -(-size // _ALIGN) * _ALIGN
        descriptor = os.memfd_create("sealtune-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        # or the other side could cut it short, and the next access would kill this process
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return cls(descriptor, size)

    @classmethod
    def attach(cls, descriptor: int, size: int) -> Arena:
        """Map memory that the other side created.

        Raises:
            FrameError: it is smaller or larger than announced, absurdly large, or can shrink.
        """
        if not 0 < size <= MAX_ARENA or os.fstat(descriptor).st_size != size:
            raise FrameError("shared memory does not have the announced size")
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            sealed = 0  # an ordinary file
        if not sealed & fcntl.F_SEAL_SHRINK:
            raise FrameError("shared memory could be cut short by the other side")
        return cls(descriptor, size)

    def codes(self, rows: int, cols: int) -> Tensor:
        """View of the first ``rows * cols`` int32 values.

        Raises:
            FrameError: the arena is too small.
        """
        count = rows * cols * 4
        if rows < 0 or cols < 0 or count > self.size:
            raise FrameError(f"{rows} x {cols} codes do not fit into the shared memory")
        return self._bytes[:count].view(torch.int32).view(rows, cols)

    def close(self) -> None:
        """Let go of the descriptor; the mapping goes with the last tensor that views it."""
        os.close(self.descriptor)


def send_descriptor(sock: socket.socket, descriptor: int) -> None:
    """Pass a file descriptor over a Unix socket, with one byte to carry it."""
    socket.send_fds(sock, [b"\0"], [descriptor])


def receive_descriptor(sock: socket.socket) -> int:
    """Take a file descriptor from a Unix socket.

    Raises:
        FrameError: none came.
    """
    _, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
    if len(descriptors) != 1:
        raise FrameError("expected one file descriptor")
    return descriptors[0]


def codes_from_bytes(body: bytes | bytearray | memoryview, rows: int, cols: int) -> Tensor:
    """Little-endian int32 codes from a frame's body, as a private copy.

    Raises:
        FrameError: the length does not match.
    """
    if rows < 0 or cols < 0 or memoryview(body).nbytes != rows * cols * 4:
        raise FrameError(f"body does not hold {rows} x {cols} codes")
    if rows * cols == 0:
        return torch.empty((rows, cols), dtype=torch.int32)
    return torch.frombuffer(bytearray(body), dtype=torch.int32).view(rows, cols)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a contiguous CPU tensor, without a copy."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
