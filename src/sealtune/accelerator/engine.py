"""Ring products with the frozen int8 backbone, on CPU or CUDA.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sealtune.accelerator.prefix import PlainBlocks
from sealtune.errors import AcceleratorLostError
from sealtune.offload import kernels, ring


class Engine:
    """Weights by group, and one product at a time.

    Args:
        backbone: safetensors file with ``<module>.weight`` int8 [N, K] tensors.
        groups: ``groups`` of the slice plan: dicts with ``name`` and ``members``.
        prefix: leading blocks to run in the plain, if the plan has any.
        device: ``cpu`` or ``cuda``.

    Attributes:
        arithmetic: how this device multiplies exactly, see ``sealtune.offload.kernels``.

    Raises:
        OffloadError: it does not.
    """

    def __init__(
        self,
        backbone: Path,
        groups: Sequence[Mapping[str, Any]],
        *,
        prefix: PlainBlocks | None = None,
        device: str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self.arithmetic = kernels.arithmetic(self._device)
        self._prefix = prefix
        self._lock = threading.Lock()
        self.calls = 0
        self.busy_seconds = 0.0
        with safe_open(backbone, framework="pt") as file:
            self._weights: dict[str, Tensor] = {
                group["name"]: torch.cat(
                    [file.get_tensor(f"{member}.weight") for member in group["members"]]
                ).to(self._device)
                for group in groups
            }

    def columns(self, group: str, *, backward: bool) -> tuple[int, int]:
        """``(columns of the codes, columns of the result)`` of a group.

        Raises:
            AcceleratorLostError: no such group.
        """
        outer, inner = self._weight(group).shape
        return (outer, inner) if backward else (inner, outer)

    def product(self, group: str, codes: Tensor, *, backward: bool) -> Tensor:
        """int32 [T, K] -> int32 [T, N] mod 2^32 (backward: [T, N] -> [T, K])."""
        weight = self._weight(group)
        with self._turn():
            return ring.product(codes.to(self._device), weight if backward else weight.t()).cpu()

    def prefix(self, input_ids: Tensor) -> Tensor:
        """int64 [B, T] -> float32 [B, T, D] after the plain leading blocks.

        Raises:
            AcceleratorLostError: the plan has no plain blocks.
        """
        if self._prefix is None:
            raise AcceleratorLostError("this job has no plain blocks")
        with self._turn():
            return self._prefix(input_ids)

    def close(self) -> None:
        """Nothing to let go of; the engine can stand in for a remote accelerator."""

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One call at a time, counted: sites share the cores, and taking turns is fastest."""
        with self._lock:
            start = perf_counter()
            yield
            self.busy_seconds += perf_counter() - start
            self.calls += 1

    def _weight(self, group: str) -> Tensor:
        try:
            return self._weights[group]
        except KeyError:
            raise AcceleratorLostError(f"no weights for group {group[:100]!r}") from None
