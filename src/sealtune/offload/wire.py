"""How enclave and accelerator talk: frames over a socket, bulk data in shared memory if there is.

Requests, each answered by one frame (``error`` with a ``message`` where it failed):

    arena    {"bytes": n} + a file descriptor   use this shared memory from now on, or the file of
             {"bytes": n, "name": ...}          that name in the shared folder; -> ok {"seen"}
    product  {"group", "backward", "rows"}      codes in the arena or body; -> product, likewise
    prefix   {"batch", "length"}                int64 token ids in the body; -> prefix {"dim"}, body
    bye      {}                                 -> the connection ends

A fresh arena holds a random probe of the enclave's. The accelerator says what it ``seen`` there, in
hex, and writes its bytes in reverse behind it: so both know that they see each other's writes.
Without an arena codes and products travel in the frames' bodies; everything else is the same.

Trust domain: both sides of the boundary; carries only what the accelerator may see.
"""

from __future__ import annotations

import socket

import torch
from torch import Tensor

from sealtune.errors import FrameError

MAX_BODY = 1 << 31  # bytes of one product or prefix


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


def check_body(size: int, rows: int, cols: int) -> None:
    """Refuse a body that is not ``rows`` x ``cols`` int32 codes, before it is read.

    Raises:
        FrameError: the length does not match.
    """
    if rows < 0 or cols < 0 or size != rows * cols * 4:
        raise FrameError(f"body does not hold {rows} x {cols} codes")


def codes_from_bytes(body: bytes | bytearray | memoryview, rows: int, cols: int) -> Tensor:
    """Little-endian int32 codes from a frame's body, as a private copy.

    Raises:
        FrameError: the length does not match.
    """
    check_body(memoryview(body).nbytes, rows, cols)
    if rows * cols == 0:
        return torch.empty((rows, cols), dtype=torch.int32)
    return torch.frombuffer(bytearray(body), dtype=torch.int32).view(rows, cols)


class Buffer:
    """Private memory for codes that is kept from call to call."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.int32)
        self._last = self._memory.view(0, 0)

    def rows(self, rows: int, cols: int) -> Tensor:
        """int32 [rows, cols] at its start; what was there before is gone."""
        if self._last.shape == (rows, cols):
            return self._last
        count = rows * cols
        if self._memory.numel() < count:
            self._memory = self._last = torch.empty(0, dtype=torch.int32)  # the old goes first
            self._memory = torch.empty(count, dtype=torch.int32)
        self._last = self._memory[:count].view(rows, cols)
        return self._last


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a contiguous CPU tensor, without a copy."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
