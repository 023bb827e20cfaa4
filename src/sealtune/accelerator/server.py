"""Serving enclaves: one thread per connection, frames in, frames out.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import os
import socket
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from sealtune import frames
from sealtune.accelerator.engine import Engine
from sealtune.accelerator.exchange import Shared, Stream
from sealtune.accelerator.listener import Listener
from sealtune.errors import AcceleratorLostError, FrameError, SealtuneError, StorageError
from sealtune.frames import Frame
from sealtune.offload import wire
from sealtune.offload.arena import Arena

# What a request can be wrong in: fields (1e999 rows), names, token ids beyond the vocabulary.
_FAULTS = (SealtuneError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


class Server(Listener):
    """Listens at an address and answers with an engine's products.

    Args:
        untrusted_shm: folder that enclaves see, too, and name files for shared memory in.

    Raises:
        StorageError: it cannot listen there, or there is no such folder.

    Attributes:
        bytes_in, bytes_out: codes and token ids received, results sent.
    """

    def __init__(self, engine: Engine, address: str, *, untrusted_shm: Path | None = None) -> None:
        if untrusted_shm is not None and not untrusted_shm.is_dir():
            raise StorageError(f"untrusted_shm: there is no folder {untrusted_shm}")
        super().__init__(engine, address)
        self.untrusted_shm = untrusted_shm

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            connection = _Connection(self, sock)
            try:
                connection.run()
            except (EOFError, OSError, FrameError):
                pass  # the enclave is gone or talks nonsense: only its own connection ends
            finally:
                connection.close()


class _Connection:
    """One enclave's requests."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._lane = server.engine.lane()
        self._arena: Arena | None = None
        self._pinned = False

    def run(self) -> None:
        """Answer until it ends."""
        while True:
            request, size = frames.receive_head(self._sock, max_body=wire.MAX_BODY)
            if request.kind == "bye":
                return
            body = Stream(self._sock, size)
            try:
                self._answer(request, body)
            except Exception as error:  # whatever it is, the enclave hears of it
                if not isinstance(error, _FAULTS):
                    traceback.print_exc()
                if body.answered:
                    raise EOFError("an answer broke off") from error
                body.skip()
                said = f"{type(error).__name__}: {error}"[:500]
                frames.send(self._sock, Frame("error", {"message": said}))

    def _answer(self, request: Frame, body: Stream) -> None:
        meta = request.meta
        if request.kind == "arena":
            body.skip()
            self._attach(int(meta["bytes"]), meta.get("name"))
        elif request.kind == "product":
            self._product(meta, body)
        elif request.kind == "prefix":
            self._prefix(int(meta["batch"]), int(meta["length"]), body)
        else:
            raise AcceleratorLostError(f"unknown request {request.kind[:50]!r}")

    def _attach(self, size: int, name: object) -> None:
        arena = self._shared(size, name)
        self.close()
        self._arena = arena
        self._pinned = self._lane.pin(arena.bytes)
        seen = bytes(arena.probe(0))
        arena.probe(1)[:] = seen[::-1]
        frames.send(self._sock, Frame("ok", {"seen": seen.hex()}))

    def _shared(self, size: int, name: object) -> Arena:
        if name is not None:
            if self._server.untrusted_shm is None:
                raise AcceleratorLostError("untrusted_shm is not in the accelerator's local file")
            return Arena.attach_in(self._server.untrusted_shm, str(name), size)
        with ExitStack() as cleanup:
            descriptor = wire.receive_descriptor(self._sock)
            cleanup.callback(os.close, descriptor)
            arena = Arena.attach(descriptor, size)
            cleanup.pop_all()
        return arena

    def _product(self, meta: Any, body: Stream) -> None:
        group, backward, rows = str(meta["group"]), bool(meta["backward"]), int(meta["rows"])
        engine = self._server.engine
        inner, outer = engine.columns(group, backward=backward)
        if rows * max(inner, outer) * 4 > wire.MAX_BODY:
            raise FrameError(f"{rows} rows are too many for one product")
        wire.check_body(body.left, rows if self._arena is None else 0, inner)
        self._server.count(rows * inner * 4, rows * outer * 4)
        if self._arena is None:
            body.answers(Frame("product"), rows * outer * 4)
            engine.multiply(self._lane, group, rows, body, backward=backward)
            if not body.answered:  # no rows, so nothing was drained
                body.drain(torch.empty((0, outer), dtype=torch.int32))
        else:
            self._arena.check()
            near = Shared(*self._arena.codes(rows, inner, outer), pinned=self._pinned)
            engine.multiply(self._lane, group, rows, near, backward=backward)
            frames.send(self._sock, Frame("product"))

    def _prefix(self, batch: int, length: int, body: Stream) -> None:
        if batch < 1 or length < 1 or body.left != batch * length * 8:
            raise FrameError("token ids do not have the announced shape")
        ids = torch.empty((batch, length), dtype=torch.int64)
        body.fill(ids)
        hidden = self._server.engine.prefix(ids)
        self._server.count(ids.numel() * 8, hidden.numel() * 4)
        body.answers(Frame("prefix", {"dim": hidden.shape[2]}), hidden.numel() * 4)
        body.drain(hidden)

    def close(self) -> None:
        """Let go of shared memory."""
        if self._arena is not None:
            if self._pinned:
                self._lane.unpin(self._arena.bytes)
            self._arena.close()
            self._arena = None
