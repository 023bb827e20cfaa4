"""The classification head: fresh, and trained whole, whatever else of a model is tuned.

Trust domain: client enclave (federated), server enclave (split).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sealtune.model.load import HEAD
from sealtune.model.seeds import generator

_DEVIATION = 0.02
_FARTHEST = 9  # deviations; float32 draws end below


def fresh_head(model: Any, seed: int) -> None:
    """Make the head of a plain ``model`` trainable, with its first values."""
    for name, parameter in getattr(model, HEAD).requires_grad_(True).named_parameters():
        draw_head(f"{HEAD}.{name}", parameter.detach(), seed)


def draw_head(name: str, tensor: Tensor, seed: int) -> None:
    """Fill a head's ``tensor``, small and normal; on ``meta`` there is nothing to fill.

    Args:
        name: in an adapter file; with the seed, all that the values depend on.
    """
    if not tensor.is_meta:
        source = generator("lora", seed, name)
        tensor.copy_(torch.randn(tensor.shape, generator=source).mul_(_DEVIATION))


def head_first_value(name: str) -> float | None:
    """See ``Tuner.first_value``."""
    return _DEVIATION * _FARTHEST if is_head(name) else None


def is_head(name: str) -> bool:
    """Whether a trainable tensor is of the head."""
    return f".{HEAD}." in f".{name}"
