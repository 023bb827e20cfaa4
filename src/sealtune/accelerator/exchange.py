"""Where a call's codes come from and where its product goes, each row once and in order.

Trust domain: accelerator (untrusted). The enclave is not trusted either.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sealtune import frames
from sealtune.frames import Frame
from sealtune.offload import wire

_PIECE = 1 << 20  # bytes of what is read and thrown away


class Exchange(ABC):
    """Both for one call.

    Attributes:
        memory: int32 [T, K] and [T, N] of the host, if codes and product lie there.
        pinned: a device reaches this memory by itself.
    """

    memory: tuple[Tensor, Tensor] | None = None
    pinned = False

    @abstractmethod
    def fill(self, rows: Tensor) -> None:
        """Put the next rows of the codes into ``rows``."""

    @abstractmethod
    def drain(self, rows: Tensor) -> None:
        """Take ``rows`` as the next of the product. None is drained before all are filled."""


class Shared(Exchange):
    """Codes and product are in shared memory."""

    def __init__(self, codes: Tensor, product: Tensor, *, pinned: bool) -> None:
        self.memory = self._codes, self._product = codes, product
        self.pinned = pinned
        self._filled = self._drained = 0

    def fill(self, rows: Tensor) -> None:
        """See ``Exchange``."""
        rows.copy_(self._codes[self._filled : self._filled + len(rows)])
        self._filled += len(rows)

    def drain(self, rows: Tensor) -> None:
        """See ``Exchange``."""
        self._product[self._drained : self._drained + len(rows)].copy_(rows)
        self._drained += len(rows)


class Stream(Exchange):
    """A request's body on its way in, and then its answer's on its way out.

    Attributes:
        left: bytes of the request's body that are not read yet.
        answered: whether the answer has begun; then no other can be given.
    """

    def __init__(self, sock: socket.socket, size: int) -> None:
        self._sock = sock
        self._head = b""
        self.left = size
        self.answered = False

    def fill(self, rows: Tensor) -> None:
        """Read as many bytes as ``rows`` has, see ``Exchange``."""
        view = wire.tensor_bytes(rows)
        assert view.nbytes <= self.left, "checked against what was announced"
        self.left -= view.nbytes
        frames.read_into(self._sock, view)

    def skip(self) -> None:
        """Read what is left of the body, for nothing."""
        scrap = torch.empty(min(self.left, _PIECE), dtype=torch.uint8)
        while self.left:
            self.fill(scrap[: self.left])

    def answers(self, head: Frame, size: int) -> None:
        """What ``drain`` sends first: the head of an answer with a body of ``size`` bytes."""
        self._head = frames.encode_head(head, size)

    def drain(self, rows: Tensor) -> None:
        """Send ``rows``, see ``Exchange``."""
        assert self.left == 0, "the enclave sends all before it reads"
        self.answered = True
        frames.send_after(self._sock, self._head, wire.tensor_bytes(rows))
        self._head = b""
