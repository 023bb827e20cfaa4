"""The trainable slice of one linear layer.

Trust domain: server enclave.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SparseDelta(nn.Module):
    """What is added to chosen rows or columns of a frozen weight ``W [N, K]``.

    It hangs below the linear layer as ``spf`` and adds its part to the layer's output, so that the
    frozen weight is never written to and the model keeps its modules and their names.

    Args:
        weight: the frozen weight, [N, K], for size, device and type.
        index: int64 [R], the chosen rows (axis 0) or columns (axis 1), ascending.
        axis: which of the two.

    Attributes:
        delta: float32 [R, K] or [N, R], zeros at the start.
    """

    index: Tensor

    def __init__(self, weight: Tensor, index: Tensor, axis: int) -> None:
        super().__init__()
        rows, columns = weight.shape
        shape = (len(index), columns) if axis == 0 else (rows, len(index))
        self.axis = axis
        self.delta = nn.Parameter(torch.zeros(shape, device=weight.device))
        self.register_buffer("index", index.to(weight.device), persistent=False)

    def forward(self, source: Tensor, output: Tensor) -> Tensor:
        """The frozen layer's ``output`` [..., N] for ``source`` [..., K], with the delta's part."""
        delta = self.delta.to(source.dtype)
        if self.axis == 0:
            return output.index_add(-1, self.index, functional.linear(source, delta))
        return output + functional.linear(source.index_select(-1, self.index), delta)

    def add_to(self, weight: Tensor) -> None:
        """Add the delta to ``weight`` [N, K], in place."""
        with torch.no_grad():
            weight.index_add_(self.axis, self.index, self.delta.to(weight.dtype))

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{'rows' if self.axis == 0 else 'columns'}={len(self.index)}"


def add_delta(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook of a linear layer with a ``SparseDelta``."""
    spf: SparseDelta = module.spf  # type: ignore[assignment]
    return spf(inputs[0], output)  # type: ignore[no-any-return]
