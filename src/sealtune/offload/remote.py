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
        self._waits = False  # for the answer of a call
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

    def call(self, group: str, rows: int, *, backward: bool) -> _Call:
        """See ``Accelerator.call``."""
        inner = self._columns.get((group, not backward))
        outer = self._columns.get((group, backward))
        if inner is None or outer is None:
            raise AcceleratorLostError(f"group {group} is not in the slice plan")
        if self._waits:
            raise AcceleratorLostError("the answer of the last call was never taken", hint=_HINT)
        if self._shared_memory:
            arena = self._reserve(rows * max(inner, outer) * 4)
            codes, result = arena.codes(rows, inner), arena.codes(rows, outer)
        else:
            codes = torch.empty((rows, inner), dtype=torch.int32)
            result = torch.empty((rows, outer), dtype=torch.int32)
        return _Call(self, Frame("product", _meta(group, backward, rows)), codes, result)

    def submit(self, call: _Call) -> None:
        """Send a call's frame, and its codes where they are not shared."""
        body = b"" if self._shared_memory else wire.tensor_bytes(call.codes)
        self._send(Frame(call.frame.kind, call.frame.meta, body))
        self._waits = True

    def take(self, call: _Call) -> None:
        """Wait for a call's answer; put it into its result where that is not shared."""
        rows, columns = call.answer.shape
        limit = 0 if self._shared_memory else rows * columns * 4
        self._waits = False
        answer = self._receive("product", limit)
        if not self._shared_memory:
            try:
                call.answer = wire.codes_from_bytes(answer.body, rows, columns)
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
        self._send(frame, descriptor)
        return self._receive(expected, limit)

    def _send(self, frame: Frame, descriptor: int | None = None) -> None:
        try:
            frames.send(self._sock, frame)
            if descriptor is not None:
                wire.send_descriptor(self._sock, descriptor)
        except OSError as error:
            raise _gone(error) from error

    def _receive(self, expected: str, limit: int) -> Frame:
        try:
            answer = frames.receive(self._sock, max_body=limit)
        except (OSError, EOFError, FrameError) as error:
            raise _gone(error) from error
        if answer.kind != expected:
            message = str(answer.meta.get("message", answer.kind))[:500]
            raise AcceleratorLostError(f"the accelerator refused: {printable(message)}", hint=_HINT)
        return answer


class _Call:
    """See ``accelerator.Call``."""

    def __init__(
        self, remote: RemoteAccelerator, frame: Frame, codes: Tensor, answer: Tensor
    ) -> None:
        self._remote = remote
        self.frame = frame
        self.codes = codes
        self.answer = answer

    def submit(self) -> None:
        """See ``accelerator.Call.submit``."""
        self._remote.submit(self)

    def result(self) -> Tensor:
        """See ``accelerator.Call.result``."""
        self._remote.take(self)
        return self.answer


def _meta(group: str, backward: bool, rows: int) -> dict[str, object]:
    return {"group": group, "backward": backward, "rows": rows}


def _gone(error: Exception) -> AcceleratorLostError:
    return AcceleratorLostError(f"the accelerator has gone: {error}", hint=_HINT)
