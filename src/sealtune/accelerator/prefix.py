"""Embedding and leading blocks in the plain, for ``protect = "adapter"``.

The accelerator is then the data owner's own machine: it may see the owner's text, not the adapter.
The blocks use the same int8 weights as everything else, so that both protection levels train the
same model.

Trust domain: accelerator (untrusted with the adapter, trusted with the owner's data).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModel
from transformers.pytorch_utils import Conv1D


class PlainBlocks:
    """The first ``blocks`` decoder blocks of a Hugging Face model.

    Args:
        model_path: the job's model.
        revision: of a hub model.
        blocks: how many.
        backbone: int8 weights that replace the linear layers' own.
    """

    def __init__(self, model_path: str, revision: str | None, blocks: int, backbone: Path) -> None:
        model = AutoModel.from_pretrained(
            model_path,
            revision=revision,
            dtype=torch.float32,
            num_hidden_layers=blocks,
            attn_implementation="sdpa",  # whatever config.json names: it could name a hub's kernel
            use_safetensors=True,
            trust_remote_code=False,
        )
        model.eval().requires_grad_(False)
        with safe_open(backbone, framework="pt") as file:
            _use_int8_weights(model, file, set(file.keys()))
        for name, _ in model.named_children():
            if "norm" in name or name == "ln_f":
                setattr(model, name, nn.Identity())  # the final norm belongs to the enclave
        self._model = model

    @torch.no_grad()
    def __call__(self, input_ids: Tensor) -> Tensor:
        """int64 [B, T] -> float32 [B, T, D]. Padding is on the right, so no mask is needed."""
        hidden: Tensor = self._model(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden.to(torch.float32).contiguous()


def _use_int8_weights(model: nn.Module, file: safe_open, names: Collection[str]) -> None:
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        stored = next((n for n in names if n.endswith(f".{name}.weight")), None)
        if stored is None or weight is None or weight.dim() != 2:
            continue
        codes = file.get_tensor(stored).to(torch.float32)
        scale = file.get_tensor(stored.removesuffix("weight") + "scale")
        value = codes * scale[:, None]
        weight.copy_(value.t() if isinstance(module, Conv1D) else value)
