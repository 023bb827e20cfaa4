"""Weights to int8: ``W ~ scale[:, None] * codes``, one step per output channel.

``scale = max|row| / 127``, codes rounded half to even.

Trust domain: none of its own; it handles public weights only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sealtune.errors import ModelError


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight matrix to int8, row by row.

    Args:
        weight: float [N, K].

    Returns:
        ``(codes int8 [N, K], scale float32 [N])``; a row of zeros gets scale 0: what a gradient
        holds for it counts for nothing, and takes no bits from what does.

    Raises:
        ModelError: the weight holds NaN or infinity.
    """
    weight = weight.detach().to(torch.float32)
    largest = weight.abs().amax(dim=1)
    if not bool(torch.isfinite(largest).all()):
        raise ModelError("a frozen weight holds NaN or infinity", hint="the model file is damaged")
    scale = largest / 127
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (weight / divisor[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes, scale
