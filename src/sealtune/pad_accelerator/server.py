"""Serving enclaves: three threads a connection, seeds in, products out.

Trust domain: pad accelerator.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

import torch

from sealtune import frames
from sealtune.accelerator.engine import Engine
from sealtune.accelerator.exchange import Shared
from sealtune.accelerator.listener import Listener
from sealtune.channel.hpke import KeyPair
from sealtune.errors import FrameError, SealtuneError
from sealtune.frames import Frame, is_count
from sealtune.offload import wire
from sealtune.offload.pad_wire import LAST_INDEX, Streams, open_seed, streams_of
from sealtune.pad_accelerator.line import Asked, Line

WINDOW = 1 << 29  # bytes of products that wait for one enclave
_SEALED = 1 << 13  # more than a sealed seed has
# What a request can be wrong in: fields, names, sizes beyond this machine's memory.
_FAULTS = (SealtuneError, LookupError, RuntimeError, TypeError, ValueError)


class Server(Listener):
    """Listens at an address and answers with products of pads.

    Args:
        engine: multiplies.
        address: where to listen.
        key: private half of what the manifest names.
        job_id: SHA-384 of the job.
        sites: whom it serves.

    Attributes:
        bytes_in: nothing but requests comes in: 0.
        bytes_out: of products.
    """

    def __init__(
        self, engine: Engine, address: str, *, key: KeyPair, job_id: bytes, sites: Collection[str]
    ) -> None:
        super().__init__(engine, address)
        self._key = key
        self._job_id = job_id
        self._sites = frozenset(sites)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                _Connection(self, sock, self._greet(sock)).run()
            except (EOFError, OSError):
                pass  # the enclave is gone: only its own connection ends
            except _FAULTS as error:
                refuse(sock, error)

    def _greet(self, sock: socket.socket) -> Streams:
        """Take a seed, sealed for this connection.

        Raises:
            KeyReleaseError: it was altered or is meant for another, another job or another site.
            FrameError: not the frames of a beginning; a site that is not served.
        """
        fresh = KeyPair.generate()
        frames.send(sock, Frame("hello", {}, fresh.public_bytes))
        request = frames.receive(sock, max_body=_SEALED)
        site = request.meta.get("site")
        if request.kind != "open" or not isinstance(site, str):
            raise FrameError("a connection begins with a sealed seed")
        if request.meta.get("job") != self._job_id.hex():
            raise FrameError("this pad accelerator serves another job")
        if site not in self._sites:
            raise FrameError("the manifest names another pad accelerator for this site")
        sealed = bytes(request.body)
        seed = open_seed(sealed, self._key, fresh, job_id=self._job_id, site=site)
        frames.send(sock, Frame("ok"))
        return streams_of(seed)


class _Connection:
    """One enclave's pads; no index is used twice."""

    def __init__(self, server: Server, sock: socket.socket, streams: Streams) -> None:
        self._server = server
        self._sock = sock
        self._streams = streams
        self._line = Line(WINDOW)
        self._lane = server.engine.lane()
        self._last = -1

    def run(self) -> None:
        """Take requests until the enclave goes."""
        threads = [_start(self._make), _start(self._send)]
        try:
            while (request := frames.receive(self._sock, max_body=0)).kind != "bye":
                if request.kind == "skip":
                    self._line.skip()
                elif request.kind == "pad":
                    self._line.ask(self._asked(request.meta))
                elif request.kind == "fetch" and is_count(request.meta.get("count")):
                    self._line.fetch(request.meta["count"])
                else:
                    raise FrameError(f"unknown request {request.kind[:50]!r}")
        finally:
            self._line.close()
            for thread in threads:
                thread.join()  # nobody writes between what follows

    def _asked(self, meta: Any) -> Asked:
        """A request, checked.

        Raises:
            FrameError: malformed, or an index that does not follow the last one: two products of
                one pad under one blind would differ by a product of the bare pad.
        """
        index, rows, group = meta.get("index"), meta.get("rows"), meta.get("group")
        if not (is_count(index) and self._last < index <= LAST_INDEX):
            raise FrameError("a pad's index does not follow the last one")
        if not (is_count(rows) and rows > 0 and isinstance(group, str)):
            raise FrameError("a pad has a group and rows")
        backward = meta.get("backward") is True
        inner, outer = self._server.engine.columns(group, backward=backward)
        if rows * max(inner, outer) * 4 > wire.MAX_BODY:
            raise FrameError(f"a pad of {rows} rows is too large")
        self._last = index
        return Asked(index, group, backward, rows, inner, outer)

    def _make(self) -> None:
        while (order := self._line.next_to_make()) is not None:
            epoch, one = order
            try:
                self._line.put(epoch, self._pad(one))
            except _FAULTS as error:
                self._line.put(epoch, _error(error))

    def _pad(self, one: Asked) -> Frame:
        codes = self._streams.mask.mask(one.index, one.rows, one.inner)
        product = torch.empty((one.rows, one.outer), dtype=torch.int32)
        memory = Shared(codes, product, pinned=False)
        self._server.engine.multiply(self._lane, one.group, one.rows, memory, backward=one.backward)
        product += self._streams.blind.mask(one.index, one.rows, one.outer)
        return Frame("pad", {"index": one.index}, wire.tensor_bytes(product))

    def _send(self) -> None:
        while (frame := self._line.next_to_send()) is not None:
            try:
                frames.send(self._sock, frame)
            except OSError:
                self._line.close()
                return
            self._server.count(0, len(frame.body))


def refuse(sock: socket.socket, error: Exception) -> None:
    """Tell the enclave why its connection ends, if it listens still."""
    with contextlib.suppress(OSError):
        frames.send(sock, _error(error))


def _error(error: Exception) -> Frame:
    return Frame("error", {"message": f"{type(error).__name__}: {error}"[:500]})


def _start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
