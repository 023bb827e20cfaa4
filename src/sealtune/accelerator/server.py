"""Serving enclaves: one thread per connection, frames in, frames out.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import os
import socket
import threading
import traceback
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from sealtune import frames, sockets
from sealtune.accelerator.engine import Engine
from sealtune.errors import AcceleratorLostError, FrameError, SealtuneError
from sealtune.frames import Frame
from sealtune.offload import wire

# What a request can be wrong in: fields (1e999 rows), names, token ids beyond the vocabulary.
_FAULTS = (SealtuneError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


class Server:
    """Listens at an address and answers with an engine's products.

    Attributes:
        bytes_in, bytes_out: codes and token ids received, results sent.
    """

    def __init__(self, engine: Engine, address: str) -> None:
        self.engine = engine
        self.bytes_in = 0
        self.bytes_out = 0
        self._lock = threading.Lock()
        self._listener = sockets.listen(address)

    @property
    def port(self) -> int:
        """TCP port that it listens on (0 for a Unix socket)."""
        name = self._listener.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def serve_forever(self) -> None:
        """Accept enclaves until the listener is closed."""
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def close(self) -> None:
        """Stop accepting."""
        self._listener.close()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            connection = _Connection(self, sock)
            try:
                connection.run()
            except (EOFError, OSError, FrameError):
                pass  # the enclave is gone or talks nonsense: only its own connection ends
            finally:
                connection.close()

    def count(self, received: int, sent: int) -> None:
        """Add to the byte counters."""
        with self._lock:
            self.bytes_in += received
            self.bytes_out += sent


class _Connection:
    """One enclave's requests."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._arena: wire.Arena | None = None

    def run(self) -> None:
        while True:
            request = frames.receive(self._sock, max_body=wire.MAX_BODY)
            if request.kind == "bye":
                return
            try:
                answer = self._answer(request)
            except Exception as error:  # whatever it is, the enclave hears of it
                if not isinstance(error, _FAULTS):
                    traceback.print_exc()
                answer = Frame("error", {"message": f"{type(error).__name__}: {error}"[:500]})
            frames.send(self._sock, answer)

    def _answer(self, request: Frame) -> Frame:
        meta = request.meta
        if request.kind == "arena":
            return self._attach(int(meta["bytes"]))
        if request.kind == "product":
            return self._product(meta, request.body)
        if request.kind == "prefix":
            return self._prefix(int(meta["batch"]), int(meta["length"]), request.body)
        raise AcceleratorLostError(f"unknown request {request.kind[:50]!r}")

    def _attach(self, size: int) -> Frame:
        with ExitStack() as cleanup:
            descriptor = wire.receive_descriptor(self._sock)
            cleanup.callback(os.close, descriptor)
            arena = wire.Arena.attach(descriptor, size)
            cleanup.pop_all()
        self.close()
        self._arena = arena
        return Frame("ok")

    def _product(self, meta: Any, body: bytes | bytearray | memoryview) -> Frame:
        group, backward, rows = str(meta["group"]), bool(meta["backward"]), int(meta["rows"])
        inner, outer = self._server.engine.columns(group, backward=backward)
        codes: Tensor
        if self._arena is not None:
            codes = self._arena.codes(rows, inner)
        else:
            codes = wire.codes_from_bytes(body, rows, inner)
        result = self._server.engine.product(group, codes, backward=backward)
        self._server.count(rows * inner * 4, rows * outer * 4)
        if self._arena is not None:
            self._arena.codes(rows, outer).copy_(result)
            return Frame("product")
        return Frame("product", {}, wire.tensor_bytes(result))

    def _prefix(self, batch: int, length: int, body: bytes | bytearray | memoryview) -> Frame:
        if batch < 1 or length < 1 or memoryview(body).nbytes != batch * length * 8:
            raise FrameError("token ids do not have the announced shape")
        ids = torch.frombuffer(bytearray(body), dtype=torch.int64).view(batch, length)
        hidden = self._server.engine.prefix(ids)
        self._server.count(ids.numel() * 8, hidden.numel() * 4)
        return Frame("prefix", {"dim": hidden.shape[2]}, wire.tensor_bytes(hidden))

    def close(self) -> None:
        if self._arena is not None:
            self._arena.close()
            self._arena = None
