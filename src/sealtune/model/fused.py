"""Fewer passes, and fewer tensors kept, where a family's feed-forward layer is one that is known.

``down(silu(gate(x)) * up(x))`` keeps three wide tensors for the backward pass: gate, its SiLU, and
up. Here SiLU is computed again from gate, in the pass that needs it: two are kept.

Trust domain: client enclave; data owner (secure aggregation).
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# whose forward pass is that formula and nothing else; another family keeps its own
_KNOWN = frozenset(
    f"transformers.models.{family}.modeling_{family}.{name}MLP"
    for family, name in (
        ("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3"),
    )
)  # fmt: skip
_SILU = ("torch.nn.modules.activation.SiLU", "transformers.activations.SiLUActivation")


def fuse_feed_forward(model: nn.Module) -> int:
    """Change the feed-forward layers that are known, in place; how many there were.

    Their linear layers stay what and where they are.
    """
    known = [m for m in model.modules() if _name(m) in _KNOWN and _name(m.act_fn) in _SILU]
    for module in known:
        module.forward = partial(_feed_forward, module)
    return len(known)


def _feed_forward(module: Any, x: Tensor) -> Tensor:
    gated = _GatedSilu.apply(module.gate_proj(x), module.up_proj(x))  # type: ignore[no-untyped-call]
    return cast(Tensor, module.down_proj(gated))


class _GatedSilu(torch.autograd.Function):
    """``silu(gate) * up``."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_up = functional.silu(gate).mul_(grads[0])
        d_gate = torch.ops.aten.silu_backward(grads[0] * up, gate)
        return d_gate, d_up


def _name(module: object) -> str:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}"
