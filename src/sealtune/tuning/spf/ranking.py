"""Rank the heads of each group: by their weights, by chance, or by what they do on data.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sealtune.errors import ModelError
from sealtune.model.seeds import generator
from sealtune.tuning.spf.config import SPFConfig, count_of
from sealtune.tuning.spf.heads import HeadGroup, Part, weight_of
from sealtune.tuning.tuner import Calibrate


def choose(
    groups: Sequence[HeadGroup],
    config: SPFConfig,
    calibrate: Calibrate | None,
    model: nn.Module | None = None,
) -> list[tuple[int, ...]]:
    """The chosen heads of each group, ascending.

    Args:
        groups: of one model.
        config: ratios and selector.
        calibrate: runs the model on a few batches and returns their loss, or yields one loss after
            another; for ``gradient`` and ``activation`` only.

        model: that the groups are of; where it is given, ``activation`` leaves padding out.

    Raises:
        ModelError: the selector needs data and there is no ``calibrate``.
    """
    counts = [count_in(group, config) for group in groups]
    if any(weight_of(part.projection).is_meta for g in groups for part in g.parts):
        return [tuple(range(count)) for count in counts]  # shapes only: any heads will do
    scores = _scores(groups, config, calibrate, model)
    # ties go to the lower number, so that everybody chooses the same
    return [
        tuple(sorted(torch.argsort(score, descending=True, stable=True)[:count].tolist()))
        for score, count in zip(scores, counts, strict=True)
    ]


def count_in(group: HeadGroup, config: SPFConfig) -> int:
    """How many heads of a group are tuned."""
    return count_of(config.dense if group.role == "dense" else config.qkv, group.heads)


def _scores(
    groups: Sequence[HeadGroup],
    config: SPFConfig,
    calibrate: Calibrate | None,
    model: nn.Module | None,
) -> list[Tensor]:
    """One float64 score for each head; the highest are chosen."""
    if config.select == "random":
        return [
            torch.rand(g.heads, generator=generator("spf", config.seed, g.block, g.role)).double()
            for g in groups
        ]
    if not config.needs_data:
        sign = 1 if config.select == "l1-largest" else -1
        return [sign * _l1(g) for g in groups]
    if calibrate is None:
        raise ModelError(
            f"the selector '{config.select}' looks at data, and none was given",
            hint="pass calibrate=..., which runs the model on a few batches and returns the loss",
        )
    if config.select == "gradient":
        return _gradient(groups, calibrate)
    return _activation(groups, calibrate, model)


def _l1(group: HeadGroup) -> Tensor:
    """L1 norm of the weights that each head owns."""
    return torch.stack([_per_head(weight_of(p.projection), p) for p in group.parts]).sum(dim=0)


def _per_head(weight: Tensor, part: Part) -> Tensor:
    """Sum of magnitudes in ``weight`` [N, K] over what each head owns: float64 [heads]."""
    along = weight.detach().abs().sum(dim=1 - part.axis, dtype=torch.float64)
    return along[part.index.to(along.device)].sum(dim=1).cpu()


def _gradient(groups: Sequence[HeadGroup], calibrate: Calibrate) -> list[Tensor]:
    """L1 norm of the gradient of each head's weights; one layer's gradient exists at a time."""
    scores = [torch.zeros(g.heads, dtype=torch.float64) for g in groups]
    owners: dict[nn.Module, list[tuple[Tensor, Part]]] = {}
    for group, score in zip(groups, scores, strict=True):
        for part in group.parts:
            owners.setdefault(part.projection, []).append((score, part))

    def take(module: Any) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                return
            matrix = gradient.t() if isinstance(module, Conv1D) else gradient
            for score, part in owners[module]:
                score.add_(_per_head(matrix, part))

        return hook

    weights: list[Any] = [module.weight for module in owners]
    try:
        with ExitStack() as hooks:
            for module, weight in zip(owners, weights, strict=True):
                weight.requires_grad_(True)
                hooks.enter_context(weight.register_post_accumulate_grad_hook(take(module)))
            # into these weights alone: adapters that are on the model keep their gradients
            for loss in _losses(calibrate):
                torch.autograd.backward([loss], inputs=weights)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    return scores


def _losses(calibrate: Calibrate) -> Iterable[Tensor]:
    losses = calibrate()
    return (losses,) if isinstance(losses, Tensor) else losses


def _activation(
    groups: Sequence[HeadGroup], calibrate: Calibrate, model: nn.Module | None
) -> list[Tensor]:
    """Magnitude of each head's output, read off the input of the output projection."""
    magnitude: dict[int, Tensor] = {}  # of each block: float64 [heads]
    mask: Tensor | None = None

    def see_mask(_module: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
        nonlocal mask
        given = kwargs.get("attention_mask")
        if isinstance(given, Tensor) and given.dim() == 2:
            mask = given

    def watch(block: int, part: Part) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            size = inputs[0].detach().abs()  # [B, T, heads x width]
            if mask is not None and mask.shape == size.shape[:2]:
                size = size * mask[..., None]  # a padding position says nothing of a text
            flat = size.reshape(-1, size.shape[-1])
            mean = flat.sum(dim=0, dtype=torch.float64).cpu()[part.index].sum(dim=1)
            magnitude[block] = magnitude.get(block, torch.zeros_like(mean)) + mean

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for group in groups:
            for part in group.parts if group.role == "dense" else ():
                hook = watch(group.block, part)
                hooks.enter_context(part.projection.register_forward_pre_hook(hook))
        for module in model.modules() if model is not None else ():
            if isinstance(module, PreTrainedModel):
                hooks.enter_context(module.register_forward_pre_hook(see_mask, with_kwargs=True))
        for _ in _losses(calibrate):
            pass  # the hooks have seen it
    # a key/value head counts for all the query heads that read it
    return [magnitude[g.block].reshape(g.heads, -1).sum(dim=1) for g in groups]
