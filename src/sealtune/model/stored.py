"""Frozen matrices as their file has them, half the size where that is half precision.

Values are the same as if the matrix were float32: bfloat16 and float16 convert to it exactly. The
embedding converts the rows that it hands out, the head a few of its rows at a time. Both are
buffers, so that the first parameter of a model still says in which type the model computes.

Trust domain: client enclave; data owner (secure aggregation).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVERTED = 1 << 20  # values of a head that are converted at a time: 4 MiB, which caches hold


class StoredEmbedding(nn.Module):
    """Takes the place of an ``nn.Embedding`` that is not tuned.

    Args:
        weight: [V, D] of any float type.
        dtype: of what it hands out, unless ``weight`` is wider.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self._dtype = dtype
        self.register_buffer("weight", weight)
        self.weight: Tensor
        self.num_embeddings, self.embedding_dim = weight.shape

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [B, T] -> [B, T, D]."""
        rows = functional.embedding(ids, self.weight)
        return rows.to(torch.promote_types(rows.dtype, self._dtype))


class StoredHead(nn.Module):
    """Takes the place of an ``nn.Linear`` that is not tuned and makes logits.

    Args:
        weight: [V, D] of any float type; None: the embedding's.
        bias: [V], or None.
        embedding: whose matrix it is, if they are tied.
    """

    def __init__(
        self,
        weight: Tensor | None,
        bias: Tensor | None,
        embedding: StoredEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", weight)
        self.matrix: Tensor | None
        self._embedding = (embedding,)  # no module of this one
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.bias: Tensor | None
        self.out_features, self.in_features = self.weight.shape

    @property
    def weight(self) -> Tensor:
        """[V, D]."""
        (embedding,) = self._embedding
        if embedding is not None:
            return embedding.weight
        assert self.matrix is not None
        return self.matrix

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., V], of the type of ``x``, or that of ``torch.autocast``."""
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        y = cast(Tensor, _StoredProduct.apply(x, self.weight))  # type: ignore[no-untyped-call]
        return y if self.bias is None else y.add_(self.bias.to(y.dtype))


class _StoredProduct(torch.autograd.Function):
    """``x @ weight^T`` with the weight converted to the type of ``x`` a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        flat = x.reshape(-1, x.shape[-1])
        y = x.new_empty(*x.shape[:-1], len(weight))  # no view: whoever gets it may write into it
        with torch.autocast(x.device.type, enabled=False):
            for rows in _spans(weight):
                torch.mm(flat, weight[rows].to(x.dtype).t(), out=y.view(len(flat), -1)[:, rows])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        weight: Tensor = ctx.weight
        flat = grads[0].reshape(-1, len(weight))
        x = flat.new_zeros(len(flat), weight.shape[1])
        for rows in _spans(weight):
            x.addmm_(flat[:, rows], weight[rows].to(x.dtype))
        return x.view(*grads[0].shape[:-1], -1), None


def _spans(weight: Tensor) -> list[slice]:
    """Rows of ``weight``, all of them, in parts of about ``_CONVERTED`` values."""
    count = max(1, _CONVERTED // weight.shape[1])
    return [slice(i, i + count) for i in range(0, len(weight), count)]
