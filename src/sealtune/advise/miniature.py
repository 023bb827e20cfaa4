"""A model of a job's own make with random weights, a few blocks and a short vocabulary: it is there
to be timed.

Trust domain: operator; public structure only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sealtune.job.spec import ModelSpec
from sealtune.model.files import WEIGHTS
from sealtune.model.load import load_config, quiet

_DRAWN = 1 << 20  # values, which repeat


def write_miniature(spec: ModelSpec, folder: Path, *, blocks: int, vocabulary: int) -> ModelSpec:
    """Write a causal language model into a new folder, in bfloat16.

    Args:
        spec: the model whose make it is; a folder with its configuration.
        blocks: how many, its first ones.
        vocabulary: token ids.

    Raises:
        ModelError: there is no such model.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(spec)
    whole = config.num_hidden_layers
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == whole:  # one for each block
            setattr(config, key, value[:blocks])
    config.num_hidden_layers, config.vocab_size = blocks, vocabulary
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    config.dtype = torch.bfloat16
    with quiet(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    config.architectures = [type(model).__name__]
    folder.mkdir(parents=True)
    save_file(_drawn(model), folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)
    return ModelSpec(path=str(folder), task="causal-lm")


def _drawn(model: Any) -> dict[str, Tensor]:
    """A value for each tensor of ``model``; norms and biases are ones, as if they were trained."""
    values = (torch.randn(_DRAWN) * 0.02).to(torch.bfloat16)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():  # each of a tied pair once
        size = parameter.numel()
        if parameter.dim() == 1:
            tensors[name] = torch.ones(size, dtype=torch.bfloat16)
        else:
            tensors[name] = values.repeat(-(-size // _DRAWN))[:size].view(parameter.shape)
    return tensors
