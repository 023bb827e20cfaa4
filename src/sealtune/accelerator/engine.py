"""Ring products with the frozen int8 backbone, on CPU or CUDA.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from sealtune.accelerator.devices import Cuda, Device
from sealtune.accelerator.exchange import Exchange
from sealtune.accelerator.lanes import Direct, Lane, Queued
from sealtune.errors import AcceleratorLostError
from sealtune.offload import kernels, ring

if TYPE_CHECKING:
    from sealtune.accelerator.prefix import PlainBlocks


class Engine:
    """Weights by group, and whatever multiplies with them.

    Args:
        backbone: safetensors file with ``<module>.weight`` int8 [N, K] tensors.
        groups: ``groups`` of the slice plan: dicts with ``name`` and ``members``.
        prefix: leading blocks to run in the plain, if the plan has any.
        device: ``cpu``, ``cuda`` or a ``Device``.

    Attributes:
        arithmetic: how this device multiplies exactly, see ``sealtune.offload.kernels``.
        calls: products and prefixes so far.
        busy_seconds: of them; on the processor of their arithmetic, on a device with transfers.

    Raises:
        OffloadError: it does not.
    """

    def __init__(
        self,
        backbone: Path,
        groups: Sequence[Mapping[str, Any]],
        *,
        prefix: PlainBlocks | None = None,
        device: str | Device = "cpu",
    ) -> None:
        self._device = Cuda() if device == "cuda" else None if isinstance(device, str) else device
        where = torch.device("cpu") if self._device is None else self._device.where
        self.arithmetic = kernels.arithmetic(where)
        self._prefix = prefix
        self._counts = threading.Lock()
        self.calls = 0
        self.busy_seconds = 0.0
        with safe_open(backbone, framework="pt") as file:
            self._weights: dict[str, Tensor] = {
                group["name"]: torch.cat(
                    [file.get_tensor(f"{member}.weight") for member in group["members"]]
                ).to(where)
                for group in groups
            }
        if self._device is not None:
            self._device.settle()  # the lanes' queues know nothing of what loaded the weights

    def columns(self, group: str, *, backward: bool) -> tuple[int, int]:
        """``(columns of the codes, columns of the result)`` of a group.

        Raises:
            AcceleratorLostError: no such group.
        """
        inner, outer = self._weight(group, backward).shape
        return inner, outer

    def lane(self) -> Lane:
        """A way to the arithmetic, for one connection."""
        return Direct(self._counted) if self._device is None else Queued(self._device)

    def multiply(
        self, lane: Lane, group: str, rows: int, exchange: Exchange, *, backward: bool
    ) -> None:
        """``rows`` rows of codes, and their product mod 2^32, by one of ``lane``'s."""
        weight = self._weight(group, backward)
        if self._device is None:
            lane.multiply(weight, rows, exchange)
            return
        with self._counted():
            lane.multiply(weight, rows, exchange)

    def product(self, group: str, codes: Tensor, *, backward: bool) -> Tensor:
        """int32 [T, K] -> int32 [T, N] mod 2^32 (backward: [T, N] -> [T, K]), by itself."""
        weight = self._weight(group, backward)
        with self._counted():
            return ring.product(codes.to(weight.device), weight).cpu()

    def prefix(self, input_ids: Tensor) -> Tensor:
        """int64 [B, T] -> float32 [B, T, D] after the plain leading blocks.

        Raises:
            AcceleratorLostError: the plan has no plain blocks.
        """
        if self._prefix is None:
            raise AcceleratorLostError("this job has no plain blocks")
        with self._counted():
            return self._prefix(input_ids)

    def close(self) -> None:
        """Nothing to let go of; the engine can stand in for a remote accelerator."""

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Around a call. Sites share the cores; to take turns is no faster, nor as fair."""
        start = perf_counter()
        yield
        with self._counts:
            self.busy_seconds += perf_counter() - start
            self.calls += 1

    def _weight(self, group: str, backward: bool) -> Tensor:
        """int8 [K, N] that codes are multiplied with."""
        try:
            weight = self._weights[group]
        except KeyError:
            raise AcceleratorLostError(f"no weights for group {group[:100]!r}") from None
        return weight if backward else weight.t()
