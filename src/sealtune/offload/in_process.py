"""An accelerator in the enclave's own process, without a connection.

Trust domain: tests and benchmarks; protects nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sealtune.job.plan import LinearGroup


class Multiplier(Protocol):
    """Such as ``sealtune.accelerator.engine.Engine``."""

    def product(self, group: str, codes: Tensor, *, backward: bool) -> Tensor:
        """int32 [T, K] -> int32 [T, N], see ``Accelerator.call``."""
        ...

    def prefix(self, input_ids: Tensor) -> Tensor:
        """See ``Accelerator.prefix``."""
        ...

    def close(self) -> None:
        """Let go of whatever it holds."""
        ...


class InProcess:
    """``Accelerator`` whose products are computed at once by ``multiplier``."""

    def __init__(self, multiplier: Multiplier, groups: Sequence[LinearGroup]) -> None:
        self._multiplier = multiplier
        self._groups = {group.name: group for group in groups}

    def call(self, group: str, rows: int, *, backward: bool) -> _Call:
        """See ``Accelerator.call``."""
        spec = self._groups[group]
        inner = sum(spec.out_features) if backward else spec.in_features
        codes = torch.empty((rows, inner), dtype=torch.int32)
        return _Call(self._multiplier, group, codes, backward)

    def prefix(self, input_ids: Tensor) -> Tensor:
        """See ``Accelerator.prefix``."""
        return self._multiplier.prefix(input_ids)

    def close(self) -> None:
        """See ``Accelerator.close``."""
        self._multiplier.close()


class _Call:
    def __init__(self, multiplier: Multiplier, group: str, codes: Tensor, backward: bool) -> None:
        self.codes = codes
        self._multiplier, self._group, self._backward = multiplier, group, backward
        self._result: Tensor | None = None

    def submit(self) -> None:
        self._result = self._multiplier.product(self._group, self.codes, backward=self._backward)

    def result(self) -> Tensor:
        assert self._result is not None, "submitted before"
        return self._result
