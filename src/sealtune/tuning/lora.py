"""Put LoRA on a frozen model through ``peft``, and take its tensors out and in by name.

The initial values depend on the job's seed and each tensor's name alone, so every site starts from
the same adapter without a message.

Trust domain: client enclave.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sealtune.errors import TargetModulesError
from sealtune.job.spec import LoraSpec
from sealtune.model.load import HEAD, quiet
from sealtune.model.seeds import generator
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import trainable_state


def apply_lora(model: Any, lora: LoraSpec, task: str, seed: int) -> Any:
    """Wrap ``model`` in a PeftModel whose LoRA matrices (and head) are trainable, in float32.

    Args:
        model: a Hugging Face decoder from ``load_model``; on ``meta`` nothing is initialised.
        task: the job's task; ``classification`` also trains the head.
        seed: the job's seed.

    Raises:
        TargetModulesError: a target matches nothing, or something that is not a linear layer.
    """
    from peft import LoraConfig, get_peft_model

    blocks_name, blocks = find_blocks(model)
    targets = _targets(model, lora, f"{blocks_name}.")
    _check_layers(lora, len(blocks))
    layers = None if lora.layers is None else sorted(set(lora.layers))
    transposed = any(
        isinstance(m, Conv1D) for n, m in model.named_modules() if n.split(".")[-1] in targets
    )
    config = LoraConfig(
        task_type="SEQ_CLS" if task == "classification" else "CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        layers_to_transform=layers,
        layers_pattern=None if layers is None else blocks_name.split(".")[-1],
        modules_to_save=[HEAD] if task == "classification" else None,
        fan_in_fan_out=transposed,
    )
    with quiet():
        peft_model = get_peft_model(model, config)
    initialise(peft_model, seed)
    return peft_model


def initialise(model: nn.Module, seed: int) -> None:
    """Give every trainable tensor its first value, unless it is on ``meta``."""
    for name, parameter in trainable_state(model).items():
        if not parameter.is_meta:
            _initialise(name, parameter, seed)


def _initialise(name: str, parameter: Tensor, seed: int) -> None:
    """B starts at zero, A uniform as in the LoRA paper's code, the head small and normal."""
    source = generator("lora", seed, name)
    if ".lora_B." in name:
        parameter.zero_()
    elif ".lora_A." in name:
        bound = 1 / math.sqrt(parameter.shape[1])
        parameter.copy_(torch.rand(parameter.shape, generator=source).mul_(2 * bound).sub_(bound))
    else:
        parameter.copy_(torch.randn(parameter.shape, generator=source).mul_(0.02))


def _targets(model: Any, lora: LoraSpec, prefix: str) -> list[str]:
    """Names of the layers to adapt, each checked to be linear and inside the blocks."""
    inside = {n: m for n, m in model.named_modules() if n.startswith(prefix)}
    linear = sorted(
        {n.split(".")[-1] for n, m in inside.items() if isinstance(m, nn.Linear | Conv1D)}
    )
    if lora.targets == "all-linear":
        return linear
    for target in lora.targets:
        hits = {n: m for n, m in model.named_modules() if n == target or n.endswith(f".{target}")}
        if not hits:
            near = difflib.get_close_matches(target, linear, n=3, cutoff=0.4) or linear
            raise TargetModulesError(
                f"tuning.lora.targets: '{target}' matches no module of {type(model).__name__}",
                hint=f'near names: {", ".join(near)}; or write "all-linear"',
            )
        for name, module in hits.items():
            if name not in inside or not isinstance(module, nn.Linear | Conv1D):
                what = type(module).__name__ if name in inside else "outside the decoder blocks"
                raise TargetModulesError(
                    f"tuning.lora.targets: '{target}' matches {name}, which is "
                    f"{what if name not in inside else f'a {what}, not a linear layer'}",
                    hint=f"linear layers of this model: {', '.join(linear)}",
                )
    return sorted(set(lora.targets))


def _check_layers(lora: LoraSpec, blocks: int) -> None:
    wrong = [i for i in lora.layers or () if i >= blocks]
    if wrong:
        raise TargetModulesError(
            f"tuning.lora.layers names block {wrong[0]}, but the model has blocks 0 to {blocks - 1}"
        )
