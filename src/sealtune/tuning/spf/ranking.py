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
from sealtune.tuning.spf.heads import HeadGroup, Part, Share, apart, find_heads, weight_of
from sealtune.tuning.tuner import Calibrate


def groups_of(model: nn.Module, config: SPFConfig) -> list[HeadGroup]:
    """The groups of heads that ``config`` chooses from, each by itself.

    Raises:
        UnsupportedModelError, ModelError: see ``find_heads``.
    """
    shares = shares_of(config)
    return [one for group in find_heads(model, config.layers) for one in apart(group, shares)]


def shares_of(config: SPFConfig) -> dict[Share, float]:
    """Projection -> the share of its heads that is tuned."""
    return {"query": config.query, "key": config.key, "value": config.value, "dense": config.dense}


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
            another; for selectors that look at data only.
        model: that the groups are of; where it is given, ``activation`` leaves padding out.

    Raises:
        ModelError: the selector needs data and there is no ``calibrate``.
    """
    counts = [count_in(group, config) for group in groups]
    if any(weight_of(part.projection).is_meta for g in groups for part in g.parts):
        return [tuple(range(count)) for count in counts]  # shapes only: any heads will do
    numbered = list(enumerate(zip(groups, counts, strict=True)))
    undecided = {i: g for i, (g, count) in numbered if 0 < count < g.heads}
    scores = _scores(list(undecided.values()), config, calibrate, model) if undecided else []
    chosen = [tuple(range(count)) for count in counts]  # all of them, or none
    for i, score in zip(undecided, scores, strict=True):
        # ties go to the lower number, so that everybody chooses the same
        best = torch.argsort(score, descending=True, stable=True)[: counts[i]]
        chosen[i] = tuple(sorted(best.tolist()))
    return chosen


def count_in(group: HeadGroup, config: SPFConfig) -> int:
    """How many heads of a group are tuned."""
    return count_of(shares_of(config)[group.parts[0].share], group.heads)


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
    if not config.looks_at_data:
        sign = 1 if config.select == "l1-largest" else -1
        return [sign * _l1(g) for g in groups]
    if calibrate is None:
        raise ModelError(
            f"the selector '{config.select}' looks at data, and none was given",
            hint="pass calibrate=..., which runs the model on a few batches and returns the loss",
        )
    if config.select == "activation":
        return _activation(groups, calibrate, model)
    return _gradient(groups, calibrate, torch.abs if config.select == "gradient" else torch.square)


def _l1(group: HeadGroup) -> Tensor:
    """L1 norm of the weights that each head owns."""
    each = [_per_head(weight_of(p.projection), p, torch.abs) for p in group.parts]
    return torch.stack(each).sum(dim=0)


def _per_head(weight: Tensor, part: Part, size: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of ``size`` of ``weight`` [N, K] over what each head owns: float64 [heads]."""
    along = size(weight.detach()).sum(dim=1 - part.axis, dtype=torch.float64)
    return along[part.index.to(along.device)].sum(dim=1).cpu()


def _gradient(
    groups: Sequence[HeadGroup], calibrate: Calibrate, size: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """Sum of ``size`` of the gradient of each head's weights, over all losses.

    One layer's gradient exists at a time.
    """
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
                score.add_(_per_head(matrix, part, size))

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
        for block, part in {group.block: group.output for group in groups}.items():
            hook = watch(block, part)
            hooks.enter_context(part.projection.register_forward_pre_hook(hook))
        for module in model.modules() if model is not None else ():
            if isinstance(module, PreTrainedModel):
                hooks.enter_context(module.register_forward_pre_hook(see_mask, with_kwargs=True))
        for _ in _losses(calibrate):
            pass  # the hooks have seen it
    # a key/value head counts for all the query heads that read it
    return [magnitude[g.block].reshape(g.heads, -1).sum(dim=1) for g in groups]
