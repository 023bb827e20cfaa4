"""What the products are computed on: the processor, or a device that has queues of its own.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A point in a queue."""

    def wait(self) -> None:
        """Until the device has come to it."""
        ...


class Queue(Protocol):
    """Work that a device does in order, while the processor goes on."""

    def run(self, work: Callable[[], object]) -> None:
        """Begin ``work``, tensor operations on the device, after all that was given before."""
        ...

    def mark(self) -> Mark:
        """The end of what was given so far."""
        ...

    def after(self, mark: Mark) -> None:
        """What is given from now on begins when another queue has come to its mark."""
        ...


class Device(Protocol):
    """Whatever multiplies at the end of a bus.

    Attributes:
        where: where its tensors are.
    """

    where: torch.device

    def queue(self) -> Queue:
        """A new queue."""
        ...

    def pinned(self, count: int) -> Tensor:
        """int32 [count] of the host's memory that the device reaches by itself."""
        ...

    def pin(self, memory: Tensor) -> bool:
        """Let the device reach memory that exists; False where that cannot be."""
        ...

    def unpin(self, memory: Tensor) -> None:
        """The end of that."""
        ...

    def settle(self) -> None:
        """Wait for all that was given to any queue."""
        ...


class Cuda:
    """An NVIDIA GPU; see ``Device``."""

    def __init__(self) -> None:
        self.where = torch.device("cuda", torch.cuda.current_device())

    def queue(self) -> Queue:
        """See ``Device``."""
        return _Stream(self.where)

    def pinned(self, count: int) -> Tensor:
        """See ``Device``."""
        return torch.empty(count, dtype=torch.int32, pin_memory=True)

    def pin(self, memory: Tensor) -> bool:
        """See ``Device``."""
        # memory of a device or of some file systems cannot be locked: it goes by way of ``pinned``
        if int(_runtime().cudaHostRegister(memory.data_ptr(), memory.numel(), 0)) == 0:
            return True
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=self.where)  # CUDA keeps the error for whoever asks next
        return False

    def unpin(self, memory: Tensor) -> None:
        """See ``Device``."""
        _runtime().cudaHostUnregister(memory.data_ptr())

    def settle(self) -> None:
        """See ``Device``."""
        torch.cuda.synchronize(self.where)


class _Stream:
    def __init__(self, where: torch.device) -> None:
        self._stream = torch.cuda.Stream(where)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], object]) -> None:
        with torch.cuda.stream(self._stream):
            work()

    def mark(self) -> _Event:
        return _Event(self._stream.record_event())

    def after(self, mark: Mark) -> None:
        assert isinstance(mark, _Event), "of this device"
        self._stream.wait_event(mark.event)


class _Event:
    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def wait(self) -> None:
        self.event.synchronize()


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
