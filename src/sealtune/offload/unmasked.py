"""The reference that masked offload is held against: the same int8 weights, in the plain.

Trust domain: tests, benchmarks and baselines; protects nothing.
"""

from __future__ import annotations

import torch
from safetensors import safe_open
from torch import nn

from sealtune.job.plan import SlicePlan, plain_name


def use_int8_weights(model: nn.Module, plan: SlicePlan) -> None:
    """Overwrite the frozen linear layers of a plain or PEFT model by what int8 makes of them.

    Every layer in the backbone file is replaced, so the result computes what a masked model with
    this plan computes, up to the rounding of activations.
    """
    by_name = {plain_name(name): module for name, module in model.named_modules()}
    with safe_open(plan.backbone.path, framework="pt") as file, torch.no_grad():
        for key in file.keys():  # noqa: SIM118
            name, _, kind = key.rpartition(".")
            if kind != "weight":
                continue
            scale = file.get_tensor(f"{name}.scale")
            value = file.get_tensor(key).to(torch.float32) * scale[:, None]
            module = by_name[name]
            weight = module.get_parameter("weight")
            weight.copy_(value if isinstance(module, nn.Linear) else value.t())
