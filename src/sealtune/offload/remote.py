"""The accelerator behind a socket, as the enclave calls it.

Trust domain: client enclave. Every answer is checked for shape before use.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Self

import torch
from torch import Tensor

from sealtune import frames, sockets
from sealtune.errors import AcceleratorLostError, FrameError
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.job.printable import printable
from sealtune.offload import wire

_RETRY = 0.1  # seconds
_HINT = "see the accelerator's log; start the run again with --resume"


class RemoteAccelerator:
    """Client of ``sealtune.accelerator`` (see ``wire`` for the protocol).

    Args:
        sock: connected stream socket.
        groups: of the slice plan; they say how wide each answer must be.
        shared_memory: both sides are on one host, so an arena can be passed.
    """

    def __init__(
        self, sock: socket.socket, groups: Sequence[LinearGroup], *, shared_memory: bool
    ) -> None:
        self._sock = sock
        self._shared_memory = shared_memory
        self._arena: wire.Arena | None = None
        # the first frozen layer of a block reads the block's input: D features
        self._hidden = groups[0].in_features if groups else 0
        self._columns: dict[tuple[str, bool], int] = {}
        for group in groups:
            self._columns[group.name, False] = sum(group.out_features)
            self._columns[group.name, True] = group.in_features

    @classmethod
    def connect(
        cls,
        address: str,
        groups: Sequence[LinearGroup],
        *,
        timeout: float = 600,
        patience: float = 0,
    ) -> Self:
        """Connect to an address (see ``sockets``).

        Args:
            timeout: seconds without any answer after which the accelerator counts as lost.
            patience: seconds that it may still need before it listens.

        Raises:
            AcceleratorLostError: nothing answers.
        """
        last = monotonic() + patience
        while True:
            try:
                sock = sockets.connect(address, timeout=timeout)
                break
            except OSError as error:
                if monotonic() >= last:
                    raise AcceleratorLostError(
                        f"no accelerator answers at {address}: {error}", hint="is it running?"
                    ) from error
                sleep(_RETRY)
        return cls(sock, groups, shared_memory=sock.family == socket.AF_UNIX)

    def product(self, group: str, codes: Tensor, *, backward: bool) -> Tensor:
        """See ``Accelerator.product``."""
        rows, cols = codes.shape
        meta = {"group": group, "backward": backward, "rows": rows}
        columns = self._columns.get((group, backward))
        if columns is None:
            raise AcceleratorLostError(f"group {group} is not in the slice plan")
        if self._shared_memory:
            arena = self._reserve(rows * max(cols, columns) * 4)
            arena.codes(rows, cols).copy_(codes)
            self._ask(Frame("product", meta), "product")
            return arena.codes(rows, columns).clone()
        frame = Frame("product", meta, wire.tensor_bytes(codes))
        answer = self._ask(frame, "product", limit=rows * columns * 4)
        try:
            return wire.codes_from_bytes(answer.body, rows, columns)
        except FrameError as error:
            raise AcceleratorLostError(f"accelerator: {error}", hint=_HINT) from error

    def prefix(self, input_ids: Tensor) -> Tensor:
        """See ``Accelerator.prefix``."""
        batch, length = input_ids.shape
        body = wire.tensor_bytes(input_ids.to(torch.int64))
        size = batch * length * self._hidden * 4
        frame = Frame("prefix", {"batch": batch, "length": length}, body)
        answer = self._ask(frame, "prefix", limit=size)
        if answer.meta.get("dim") != self._hidden or len(answer.body) != size:
            raise AcceleratorLostError("accelerator: prefix of the wrong size", hint=_HINT)
        hidden = torch.frombuffer(bytearray(answer.body), dtype=torch.float32)
        if not bool(torch.isfinite(hidden).all()):
            raise AcceleratorLostError("accelerator: prefix that is not finite", hint=_HINT)
        return hidden.view(batch, length, self._hidden)

    def close(self) -> None:
        """Say goodbye and close."""
        try:
            frames.send(self._sock, Frame("bye"))
        except OSError:
            pass  # it has gone already, which is what was wanted
        finally:
            self._sock.close()
            if self._arena is not None:
                self._arena.close()
                self._arena = None

    def _reserve(self, size: int) -> wire.Arena:
        if self._arena is None or self._arena.size < size:
            if self._arena is not None:
                self._arena.close()
            self._arena = wire.Arena.create(size)
            frame = Frame("arena", {"bytes": self._arena.size})
            self._ask(frame, "ok", descriptor=self._arena.descriptor)
        return self._arena

    def _ask(
        self, frame: Frame, expected: str, *, limit: int = 0, descriptor: int | None = None
    ) -> Frame:
        """Send ``frame`` and take an answer of kind ``expected`` with up to ``limit`` bytes."""
        try:
            frames.send(self._sock, frame)
            if descriptor is not None:
                wire.send_descriptor(self._sock, descriptor)
            answer = frames.receive(self._sock, max_body=limit)
        except (OSError, EOFError, FrameError) as error:
            raise AcceleratorLostError(f"the accelerator has gone: {error}", hint=_HINT) from error
        if answer.kind != expected:
            message = str(answer.meta.get("message", answer.kind))[:500]
            raise AcceleratorLostError(f"the accelerator refused: {printable(message)}", hint=_HINT)
        return answer
