"""The trainable slice of one linear layer, written into its weight.

Trust domain: server enclave.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sealtune.model.trainable import count_own_write
from sealtune.tuning.spf.heads import Projection, weight_of


class SparseDelta(nn.Module):
    """What is added to chosen rows or columns of a frozen weight ``W [N, K]``.

    It hangs below the linear layer as ``spf`` and is the slice's master copy: what the weight was
    there, and a float32 delta. Once the delta has changed, their sum is written into the weight
    before the next product; so the layer computes one product, and what an optimizer adds in small
    steps is not lost where the weight is bfloat16. Backwards, nothing but the slice has a gradient.

    Args:
        layer: the linear layer.
        index: int64 [R], the chosen rows (axis 0) or columns (axis 1), ascending.
        axis: which of the two.

    Attributes:
        delta: float32 [R, K] or [N, R], zeros at the start.
        first: the slice as it was, of the weight's type.
    """

    index: Tensor
    first: Tensor

    def __init__(self, layer: Projection, index: Tensor, axis: int) -> None:
        super().__init__()
        weight = weight_of(layer)
        rows, columns = weight.shape
        shape = (len(index), columns) if axis == 0 else (rows, len(index))
        self.axis = axis
        self.delta = nn.Parameter(torch.zeros(shape, device=weight.device))
        self.register_buffer("index", index.to(weight.device), persistent=False)
        self.register_buffer("first", weight.index_select(axis, self.index), persistent=False)
        self._written = self._state()

    def _state(self) -> tuple[int, int]:
        """Another one after every change of the delta in place, and in a copy of this module."""
        return id(self.delta), self.delta._version

    def write(self, layer: Projection) -> None:
        """Have ``layer``'s weight hold the delta, unless it does."""
        if self._written == self._state():
            return
        self._put(layer, self.first + self.delta.detach())
        self._written = self._state()

    def take_out(self, layer: Projection) -> None:
        """Have ``layer``'s weight be what it was."""
        self._put(layer, self.first)

    def _put(self, layer: Projection, values: Tensor) -> None:
        weight = weight_of(layer)
        weight.index_copy_(self.axis, self.index, values.to(weight.dtype))
        count_own_write(layer.weight)

    def chosen(self, values: Tensor, axis: int) -> Tensor:
        """Of [..., N] (axis 0) or [..., K] (axis 1), what belongs to the slice."""
        if axis != self.axis or len(self.index) == values.shape[-1]:
            return values
        return values.index_select(-1, self.index)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{'rows' if self.axis == 0 else 'columns'}={len(self.index)}"


class _Slice(torch.autograd.Function):
    """The layer's output as it is; backwards, the gradient of its weight's slice beside."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, source: Tensor, delta: Tensor, spf: SparseDelta
    ) -> Tensor:
        ctx.save_for_backward(spf.chosen(source, 1))
        ctx.spf, ctx.dtype = spf, delta.dtype
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, None]:
        (source,) = ctx.saved_tensors  # [..., K] or [..., R]
        out = ctx.spf.chosen(gradient, 0).flatten(0, -2)  # [T, R] or [T, N]
        slice_ = out.t() @ source.flatten(0, -2).to(out.dtype)
        return gradient, None, slice_.to(ctx.dtype), None


def write_delta(module: nn.Module, _inputs: object) -> None:
    """Forward pre-hook of a linear layer with a ``SparseDelta``."""
    module.spf.write(module)  # type: ignore[operator, union-attr]


def train_delta(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Its forward hook."""
    spf: SparseDelta = module.spf  # type: ignore[assignment]
    if not (torch.is_grad_enabled() and spf.delta.requires_grad):
        return output
    return _Slice.apply(output, inputs[0], spf.delta, spf)  # type: ignore[no-any-return, no-untyped-call]
