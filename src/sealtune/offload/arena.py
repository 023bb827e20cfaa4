"""Memory that enclave and accelerator share: codes at its start, their product behind them.

It is anonymous and handed over as a descriptor (on one host, over a Unix socket), or a file in a
folder that both sides see: ``/dev/shm``, a DAX mount of virtiofs between a virtual machine and its
host, or what Gramine calls ``untrusted_shm``. Nothing in it is trusted: whoever holds it can change
it at any time, so each element that comes back is read once.

A file can also be cut short by the other side. ``check`` notices before each call; between a check
and an access the system ends the process (SIGBUS), which is a denial of service and no more.

Trust domain: both sides of the boundary; carries only what the accelerator may see.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import secrets
import stat
from pathlib import Path

import torch
from torch import Tensor

from sealtune.errors import FrameError

MAX_ARENA = 1 << 32  # bytes: codes and product, each up to ``wire.MAX_BODY``
PROBE = 16  # bytes
_PAGE = 1 << 12
_VIEWS = 64  # kept: a model has few shapes, and making the views takes longer than a small product
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NAME = re.compile(r"sealtune-[0-9a-f]{32}")
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Arena:
    """One piece of shared memory.

    Attributes:
        size: bytes, whole pages.
        name: of its file in the shared folder; empty without one.
    """

    def __init__(self, descriptor: int, size: int, name: str = "") -> None:
        self.descriptor = descriptor
        self.size = size
        self.name = name
        self._map = mmap.mmap(descriptor, size)
        self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)
        self._views: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    @classmethod
    def create(cls, size: int) -> Arena:
        """New anonymous memory of at least ``size`` bytes, gone when both sides let go."""
        size = _pages(size)
        descriptor = os.memfd_create("sealtune-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            # or the other side could cut it short, and the next access would kill this process
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            return cls(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def create_in(cls, folder: Path, size: int) -> Arena:
        """A new file in the shared folder; ``unlink`` it once the other side has it.

        It is the user's own, or also its group's where the folder passes its group on (setgid).

        Raises:
            OSError: no such folder, not writable, full.
        """
        size, name = _pages(size), f"sealtune-{secrets.token_hex(16)}"
        path = folder / name
        descriptor = os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if folder.stat().st_mode & stat.S_ISGID:
                os.fchmod(descriptor, 0o660)
            os.posix_fallocate(descriptor, 0, size)  # or a full file system would kill at a write
            return cls(descriptor, size, name)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def attach(cls, descriptor: int, size: int) -> Arena:
        """Map anonymous memory that the other side created.

        Raises:
            FrameError: it is smaller or larger than announced, absurdly large, or can shrink.
        """
        _check_size(descriptor, size)
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            sealed = 0  # an ordinary file
        if not sealed & fcntl.F_SEAL_SHRINK:
            raise FrameError("shared memory could be cut short by the other side")
        return cls(descriptor, size)

    @classmethod
    def attach_in(cls, folder: Path, name: str, size: int) -> Arena:
        """Map a file that the other side created in the shared folder.

        Raises:
            FrameError: no such name or file, or not a plain file of this size with one name, as
                links to files elsewhere are not: what lies there would be overwritten.
        """
        if not _NAME.fullmatch(name):
            raise FrameError("no name of shared memory")
        try:
            descriptor = os.open(folder / name, _OPEN)
        except OSError as error:
            raise FrameError(f"shared memory cannot be opened: {error.strerror}") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise FrameError("shared memory is not a plain file of one name")
            _check_size(descriptor, size)
            return cls(descriptor, size, name)
        except BaseException:
            os.close(descriptor)
            raise

    def check(self) -> None:
        """Before each call.

        Raises:
            FrameError: the other side has cut the file short.
        """
        if self.name and os.fstat(self.descriptor).st_size < self.size:
            raise FrameError("shared memory was cut short by the other side")

    def codes(self, rows: int, inner: int, outer: int) -> tuple[Tensor, Tensor]:
        """Views of the codes, int32 [rows, inner], and of their product, int32 [rows, outer].

        Raises:
            FrameError: the arena is too small.
        """
        shape = rows, inner, outer
        if shape not in self._views:
            if min(shape) < 0 or needed(*shape) > self.size:
                said = f"{rows} x {inner} + {outer} codes do not fit into the shared memory"
                raise FrameError(said)
            if len(self._views) == _VIEWS:
                self._views.clear()
            behind = _pages(rows * inner * 4)
            self._views[shape] = self._view(0, rows, inner), self._view(behind, rows, outer)
        return self._views[shape]

    def probe(self, half: int) -> memoryview:
        """``PROBE`` bytes: the first (0) are the enclave's to write, the next the accelerator's."""
        return memoryview(self._map)[half * PROBE : (half + 1) * PROBE]

    def unlink(self, folder: Path) -> None:
        """Take the file's name away; the memory stays for those who have it."""
        (folder / self.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the descriptor; the mapping goes with the last tensor that views it."""
        os.close(self.descriptor)

    def _view(self, start: int, rows: int, cols: int) -> Tensor:
        part = self.bytes[start : start + rows * cols * 4]
        return part.view(torch.int32).view(rows, cols)


def needed(rows: int, inner: int, outer: int) -> int:
    """Bytes of an arena for ``rows`` rows of codes and product."""
    return _pages(rows * inner * 4) + _pages(rows * outer * 4)


def _pages(size: int) -> int:
    """Whole pages, at least one."""
    return max(1, -(-size // _PAGE)) * _PAGE


def _check_size(descriptor: int, size: int) -> None:
    if not 0 < size <= MAX_ARENA or os.fstat(descriptor).st_size != size:
        raise FrameError("shared memory does not have the announced size")
