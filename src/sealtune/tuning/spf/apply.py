"""Put SPF on a model, look at what was chosen, and merge it.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sealtune.errors import ModelError, TargetModulesError
from sealtune.job.plan import plain_name
from sealtune.tuning.spf.config import SPFConfig
from sealtune.tuning.spf.heads import HeadGroup, Projection
from sealtune.tuning.spf.layer import SparseDelta, train_delta, write_delta
from sealtune.tuning.spf.ranking import choose, count_in, groups_of
from sealtune.tuning.tuner import Calibrate

M = TypeVar("M", bound=nn.Module)
Heads = dict[str, dict[str, tuple[int, ...]]]  # attention module -> role -> chosen heads


def apply_spf(
    model: M,
    config: SPFConfig,
    *,
    calibrate: Calibrate | None = None,
    heads: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
) -> M:
    """Make the chosen slices of ``model`` trainable, in place, and freeze the rest.

    Args:
        model: a Hugging Face decoder, or a PeftModel around one, whose adapters stay as they are.
        config: how many heads, and which.
        calibrate: for the selectors that look at data: runs the model on a few batches and returns
            their loss, with a gradient, or yields one loss after another.
        heads: the heads to tune, as ``chosen_heads`` returns them, instead of choosing.

    Returns:
        ``model``.

    Raises:
        UnsupportedModelError: its attention is of an unknown arrangement; the module is named.
        ModelError: SPF is on it already, a block or head that is not there, or data is missing.
    """
    if any(isinstance(module, SparseDelta) for module in model.modules()):
        raise ModelError("SPF is on this model already", hint="merge_spf makes it plain again")
    groups = groups_of(model, config)
    saved = [_module_to_save(model, name) for name in config.modules_to_save]
    if not hasattr(model, "peft_config"):
        model.requires_grad_(False)
    chosen = choose(groups, config, calibrate, model) if heads is None else _given(groups, heads)
    tuned: Heads = {}
    slices: dict[Projection, list[tuple[int, Tensor]]] = {}
    for group, numbers in zip(groups, chosen, strict=True):
        tuned.setdefault(group.attention, {})[group.role] = numbers
        for part in group.parts if numbers else ():
            index = part.index[list(numbers)].reshape(-1)
            slices.setdefault(part.projection, []).append((part.axis, index))
    for projection, parts in slices.items():
        index = torch.cat([index for _, index in parts]).sort().values
        projection.add_module("spf", SparseDelta(projection, index, parts[0][0]))
        projection.register_forward_pre_hook(write_delta)
        projection.register_forward_hook(train_delta)
    for module in saved:
        module.requires_grad_(True)
    model._spf_config = config  # type: ignore[assignment]
    model._spf_heads = tuned  # type: ignore[assignment]
    return model


def check_counts(
    model: nn.Module, config: SPFConfig, heads: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ModelError unless ``heads`` are as many of each group as the settings ask for."""
    for group in groups_of(model, config):
        named = len(heads.get(group.attention, {}).get(group.role, ()))
        wanted = count_in(group, config)
        if named != wanted:
            raise ModelError(
                f"{named} {group.role} heads are named for {group.attention}, the settings ask "
                f"for {wanted} of {group.heads}",
                hint="they were chosen for another model, or with other settings",
            )


def chosen_heads(model: nn.Module) -> Heads:
    """Attention module -> role (``spf.heads.HeadGroup``) -> chosen heads.

    Raises:
        ModelError: there is no SPF on the model.
    """
    heads: Heads | None = getattr(model, "_spf_heads", None)
    if heads is None:
        raise ModelError("there is no SPF on this model", hint="call apply_spf first")
    return heads


def spf_config(model: nn.Module) -> SPFConfig:
    """The settings that ``apply_spf`` was called with."""
    chosen_heads(model)
    config: SPFConfig = model._spf_config  # type: ignore[assignment]
    return config


def spf_state(model: nn.Module) -> dict[str, Tensor]:
    """What SPF trains, by its name in a file: ``<linear layer>.delta`` and modules to save."""
    saved = spf_config(model).modules_to_save
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseDelta):
            state[plain_name(name).removesuffix(".spf") + ".delta"] = module.delta.detach()
    for wanted in saved:
        for name, parameter in _module_to_save(model, wanted).named_parameters():
            state[f"{wanted}.{name}"] = parameter.detach()
    return dict(sorted(state.items()))


def merge_spf(model: M) -> M:
    """Leave every delta in its weight and take SPF off: a plain model with the same answers.

    Returns:
        ``model``, changed in place.
    """
    chosen_heads(model)
    for layer, spf in _layers(model):
        spf.write(layer)
    return _take_off(model)


def remove_spf(model: M) -> M:
    """Take SPF off and put the frozen weights back as they were, in place."""
    chosen_heads(model)
    for layer, spf in _layers(model):
        spf.take_out(layer)
    return _take_off(model)


def _layers(model: nn.Module) -> list[tuple[Any, SparseDelta]]:
    """The linear layers with a delta."""
    each = [(module, getattr(module, "spf", None)) for module in model.modules()]
    return [(layer, spf) for layer, spf in each if isinstance(spf, SparseDelta)]


def _take_off(model: M) -> M:
    for layer, _ in _layers(model):
        del layer.spf
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
            for key, hook in list(hooks.items()):
                if hook in (write_delta, train_delta):
                    del hooks[key]
    del model._spf_config, model._spf_heads
    return model


def _module_to_save(model: nn.Module, name: str) -> nn.Module:
    for path, module in model.named_modules():
        if plain_name(path) == name:
            wanted: nn.Module = module
            return wanted
    raise TargetModulesError(
        f"modules_to_save names {name}, which {type(model).__name__} does not have"
    )


def _given(
    groups: list[HeadGroup], heads: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> list[tuple[int, ...]]:
    """Heads that were chosen before."""
    own = {(group.attention, group.role) for group in groups}
    unknown = [(a, r) for a, roles in heads.items() for r in roles if (a, r) not in own]
    if unknown:
        raise ModelError(f"the model has no heads '{unknown[0][1]}' in {unknown[0][0]}")
    chosen = []
    for group in groups:
        numbers = tuple(heads.get(group.attention, {}).get(group.role, ()))
        if len(set(numbers)) < len(numbers) or not all(0 <= n < group.heads for n in numbers):
            raise ModelError(
                f"{group.attention} has {group.role} heads 0 to {group.heads - 1}, each once"
            )
        chosen.append(numbers)
    return chosen
