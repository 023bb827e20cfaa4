"""Where the decoder blocks of a Hugging Face model are.

Trust domain: every process (structure only).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sealtune.errors import UnsupportedModelError


def find_blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """Dotted name and list of the decoder blocks.

    Raises:
        UnsupportedModelError: the model keeps its blocks in another way.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no config, so it is not a Hugging Face model",
            hint="give a decoder such as AutoModelForCausalLM.from_pretrained makes",
        )
    count = getattr(config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise UnsupportedModelError(
        f"{type(model).__name__} has no list of {count} decoder blocks",
        hint="use a decoder such as Llama, SmolLM, Qwen, Mistral, GLM or GPT-2",
    )
