"""Gradients of each example of a batch, clipped and summed, for layers that are linear and small.

    with ExampleGradients(model) as watched:
        task.losses(model, batch).sum().backward()
        sums = watched.clipped_sum(clip)        # parameter -> sum over the batch

A linear layer's gradient from one example is ``sum over its tokens of g x^T``, with what goes into
the layer and what comes back to its output. Both are kept from one forward and backward pass; the
frozen layers between, masked or not, are only passed through. First each example's norm over all
layers, then the sum of all gradients, each scaled (Lee and Kifer, arXiv 2009.03106; Bu et al.,
arXiv 2210.00038): memory is that of the kept activations.

It holds where an example's loss depends on no other example of the batch.

Trust domain: client enclave.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from sealtune.errors import ModelError, UnsupportedModelError

MARGIN = 2.0**-10  # of the norm: more than rounding to float32 and to the noise's grid can add


@dataclass
class _Seen:
    """What went into a layer, [B, T, K], and came back to its output, [B, T, N]."""

    module: nn.Linear
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


class ExampleGradients:
    """Watches the trainable layers of a model.

    Args:
        model: whose trainable parameters are weights or biases of linear layers.

    Raises:
        UnsupportedModelError: see ``trainable_layers``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen = [_Seen(module) for module in trainable_layers(model).values()]
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for seen in self._seen:
            self._hooks.enter_context(seen.module.register_forward_hook(_keeper(seen)))
        return self

    def __exit__(self, *_error: object) -> None:
        self._hooks.close()
        self._forget()

    def clipped_sum(self, clip: float) -> dict[nn.Parameter, Tensor]:
        """Sum over the batch of each example's gradient, scaled down to a norm of ``clip``.

        Whatever its gradient, an example adds a vector of at most that norm to all parameters
        together; one of a smaller norm stays as it is. Forgets what it has seen.

        Raises:
            ModelError: a norm is not finite, or a layer was passed through more or less than once.
        """
        pairs = [_pair(seen) for seen in self._seen]
        sizes = {len(x) for x, _ in pairs}
        if len(sizes) != 1:
            raise ModelError(
                f"layers have seen batches of {sorted(sizes)} examples, not of one size"
            )
        squares = torch.zeros(sizes.pop(), dtype=torch.float64, device=pairs[0][0].device)
        for seen, (x, g) in zip(self._seen, pairs, strict=True):
            for each in _examples(seen.module, x, g):
                squares += each.flatten(1).to(torch.float64).square().sum(1)
        if not torch.isfinite(squares).all():
            raise ModelError(
                "an example's gradient is not finite",
                hint="the training diverged: lower train.learning_rate, or look for damaged data",
            )
        limit = clip * (1 - MARGIN)
        scale = (limit / squares.sqrt()).clamp(max=1.0)  # a norm of 0 gives infinity, so 1
        sums: dict[nn.Parameter, Tensor] = {}
        for seen, (x, g) in zip(self._seen, pairs, strict=True):
            scaled = g * scale.to(g.dtype)[:, None, None]
            if seen.module.weight.requires_grad:
                weight = cast(nn.Parameter, seen.module.weight)
                sums[weight] = torch.einsum("btn,btk->nk", scaled, x)
            if seen.module.bias is not None and seen.module.bias.requires_grad:
                sums[seen.module.bias] = scaled.sum((0, 1))
        self._forget()
        return sums

    def _forget(self) -> None:
        for seen in self._seen:
            seen.inputs.clear()
            seen.outputs.clear()


def trainable_layers(model: nn.Module) -> Mapping[str, nn.Linear]:
    """Name -> layer, of all that is trained.

    Raises:
        UnsupportedModelError: something else than linear layers is trained, or one of them is used
            twice, so that an example's gradient is not what goes in times what comes back.
    """
    layers: dict[str, nn.Linear] = {}
    known: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        twice = [p for p in own if id(p) in known]
        if type(module) is not nn.Linear or twice:
            what = "is used twice" if twice else f"is a {type(module).__name__}, no linear layer"
            raise UnsupportedModelError(
                f'privacy.unit = "example" cannot clip single gradients of {name}, which {what}',
                hint="tune LoRA matrices and the head only",
            )
        known |= {id(p) for p in own}
        layers[name] = module
    return layers


def _keeper(seen: _Seen) -> Any:
    def keep(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:  # not in an evaluation
            seen.inputs.append(args[0].detach())
            output.register_hook(seen.outputs.append)  # type: ignore[no-untyped-call]

    return keep


def _pair(seen: _Seen) -> tuple[Tensor, Tensor]:
    """Input and output gradient of a layer, as [B, T, ...]."""
    if len(seen.inputs) != 1 or len(seen.outputs) != 1:
        raise ModelError(
            f"a tuned layer was passed through {len(seen.inputs)} times forward and "
            f"{len(seen.outputs)} times backward, not once: single gradients are not known"
        )
    # under autocast, what comes back is shorter than the weights
    x, g = (one.to(seen.module.weight.dtype) for one in (seen.inputs[0], seen.outputs[0]))
    return (x, g) if x.dim() == 3 else (x.reshape(len(x), -1, x.shape[-1]), g.reshape(
        len(g), -1, g.shape[-1]))  # fmt: skip


def _examples(module: nn.Linear, x: Tensor, g: Tensor) -> list[Tensor]:
    """Each example's gradient of weight [B, N, K] and bias [B, N], as far as they are trained."""
    each = []
    if module.weight.requires_grad:
        each.append(torch.einsum("btn,btk->bnk", g, x))
    if module.bias is not None and module.bias.requires_grad:
        each.append(g.sum(1))
    return each
