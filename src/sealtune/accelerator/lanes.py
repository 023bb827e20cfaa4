"""How one connection's products get to the arithmetic and back.

On the processor a lane multiplies what lies in memory. On a device (``Queued``) a call is cut into
chunks of rows: while one is multiplied, the next is on its way there and the last on its way back.
Each connection has its own lane, so no site waits for another's transfer.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sealtune.accelerator.devices import Device, Mark
from sealtune.accelerator.exchange import Exchange
from sealtune.offload import kernels, ring, wire

_CHUNK = 1 << 24  # bytes; on PCIe as long as the dozen kernels of a chunk take to begin
_CHUNKS = 8  # as far as it goes: the arithmetic of few rows is slow
_LARGEST = 1 << 26  # bytes: nobody has more memory pinned by what he only announces


class Lane(Protocol):
    """The way to the arithmetic for one connection."""

    def multiply(self, weight: Tensor, rows: int, exchange: Exchange) -> None:
        """The product of ``rows`` rows of codes with ``weight``, int8 [K, N]."""
        ...

    def pin(self, memory: Tensor) -> bool:
        """Prepare shared memory (bytes) for use; says whether ``unpin`` has to end that."""
        ...

    def unpin(self, memory: Tensor) -> None:
        """Before it is unmapped."""
        ...


class Direct:
    """On the processor, see ``Lane``.

    Args:
        counted: entered for the arithmetic alone.
    """

    def __init__(self, counted: Callable[[], AbstractContextManager[object]]) -> None:
        self._counted = counted
        self._codes, self._product = wire.Buffer(), wire.Buffer()

    def multiply(self, weight: Tensor, rows: int, exchange: Exchange) -> None:
        """See ``Lane``."""
        if exchange.memory is not None:
            codes, product = exchange.memory
            with self._counted():
                ring.product(codes, weight, product)
            return
        codes = self._codes.rows(rows, weight.shape[0])
        exchange.fill(codes)
        product = self._product.rows(rows, weight.shape[1])
        with self._counted():
            ring.product(codes, weight, product)
        exchange.drain(product)

    def pin(self, memory: Tensor) -> bool:
        """See ``Lane``; there is nothing to do."""
        return False

    def unpin(self, memory: Tensor) -> None:
        """See ``Lane``."""


class Queued:
    """On a device that has queues, see ``Lane``.

    Args:
        chunk: bytes of codes or product, whichever are wider, that make a chunk; 0: what fits a
            GPU on PCIe.
    """

    def __init__(self, device: Device, *, chunk: int = 0) -> None:
        self.device = device
        self.up, self.work, self.down = (device.queue() for _ in range(3))
        self.sent, self.fetched = Staging(device), Staging(device)
        self._chunk = chunk or _CHUNK

    def multiply(self, weight: Tensor, rows: int, exchange: Exchange) -> None:
        """See ``Lane``."""
        spans = _spans(rows, max(weight.shape) * 4, self._chunk)
        run = _Run(self, weight, exchange)
        try:
            for span in spans:
                run.begin(span)
            run.finish(spans)
        except BaseException:
            # what the queues still use must not be let go of
            for queue in (self.up, self.work, self.down):
                queue.mark().wait()
            raise

    def pin(self, memory: Tensor) -> bool:
        """See ``Lane``."""
        return self.device.pin(memory)

    def unpin(self, memory: Tensor) -> None:
        """See ``Lane``."""
        self.device.unpin(memory)


class Staging:
    """Two pinned buffers for chunks, in turn, kept from call to call."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers = [torch.empty(0, dtype=torch.int32)] * 2

    def rows(self, turn: int, rows: int, cols: int) -> Tensor:
        """int32 [rows, cols] of the buffer whose turn it is; whoever had it two turns ago is done
        with it.
        """
        count = rows * cols
        if self._buffers[turn % 2].numel() < count:
            self._buffers[turn % 2] = self._device.pinned(count)
        return self._buffers[turn % 2][:count].view(rows, cols)


class _Run:
    """One call on its way through a lane's queues. All of its tensors on the device are kept to
    its end: memory that is let go of is given out again while another queue may still use it.
    """

    def __init__(self, lane: Queued, weight: Tensor, exchange: Exchange) -> None:
        self._lane, self._weight, self._exchange = lane, weight, exchange
        self._memory = exchange.memory if exchange.pinned else None
        self._codes: list[Tensor] = []
        self._products: list[Tensor] = []
        self._sent: list[Mark] = []
        self._done: list[Mark] = []

    def begin(self, span: slice) -> None:
        """Send one chunk and multiply it."""
        lane, chunk = self._lane, len(self._sent)
        lane.up.run(partial(self._send, self._host(chunk, span)))
        self._sent.append(lane.up.mark())
        lane.work.after(self._sent[chunk])
        lane.work.run(partial(self._multiply, chunk))
        self._done.append(lane.work.mark())

    def finish(self, spans: Sequence[slice]) -> None:
        """Fetch the product."""
        if self._memory is not None:
            for chunk, span in enumerate(spans):
                self._fetch(chunk, self._memory[1][span])
            self._lane.down.mark().wait()
            return
        waiting: deque[tuple[Tensor, Mark]] = deque()
        for chunk, span in enumerate(spans):
            if len(waiting) == 2:
                self._drain(*waiting.popleft())
            rows, cols = span.stop - span.start, self._weight.shape[1]
            host = self._lane.fetched.rows(chunk, rows, cols)
            self._fetch(chunk, host)
            waiting.append((host, self._lane.down.mark()))
        for host, mark in waiting:
            self._drain(host, mark)

    def _host(self, chunk: int, span: slice) -> Tensor:
        """The chunk's codes in pinned memory."""
        if self._memory is not None:
            return self._memory[0][span]
        if chunk >= 2:
            self._sent[chunk - 2].wait()  # it had this buffer
        rows, cols = span.stop - span.start, self._weight.shape[0]
        host = self._lane.sent.rows(chunk, rows, cols)
        self._exchange.fill(host)
        return host

    def _send(self, host: Tensor) -> None:
        there = torch.empty_like(host, device=self._lane.device.where)
        self._codes.append(there.copy_(host, non_blocking=True))

    def _multiply(self, chunk: int) -> None:
        if chunk == 0:
            self._weight = kernels.laid_out(self._weight)
        self._products.append(ring.product(self._codes[chunk], self._weight))

    def _fetch(self, chunk: int, host: Tensor) -> None:
        self._lane.down.after(self._done[chunk])
        self._lane.down.run(lambda: host.copy_(self._products[chunk], non_blocking=True))

    def _drain(self, host: Tensor, mark: Mark) -> None:
        mark.wait()
        self._exchange.drain(host)


def _spans(rows: int, width: int, chunk: int) -> list[slice]:
    """Chunks of rows that are ``width`` bytes each."""
    size = rows * width
    count = max(1, min(_CHUNKS, size // chunk), -(-size // _LARGEST))
    step = max(1, -(-rows // count))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
