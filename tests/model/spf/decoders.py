"""Tiny random decoders of every arrangement that SPF knows, and where their heads are.

``owned`` says by hand, slice by slice, which weights belong to which head; it shares no code with
``sealtune.tuning.spf.heads``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from sealtune.model.load import quiet

HIDDEN, HEADS, SHARED, VOCABULARY = 64, 8, 4, 400
Slice = tuple[nn.Parameter, tuple[slice, slice]]  # a weight as it is stored, and a part of it
ALL = slice(None)

_USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 1,
}
_GROUPED = {**_USUAL, "num_key_value_heads": SHARED}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "n_positions": 64,
    "initializer_range": 0.2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 1,
}
_CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED),
    "tied-llama": ("LlamaConfig", "LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 16}),
    "mistral": ("MistralConfig", "MistralForCausalLM", _GROUPED),
    "glm4": ("Glm4Config", "Glm4ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**_GROUPED, "head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2},
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _USUAL),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _GROUPED),
    "bigcode": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", {**_GPT2, "multi_query": False}),
}
ARRANGEMENTS = ("llama", "gpt2", "neox", "phi3", "qwen3")
WIDTH = dict.fromkeys(ARRANGEMENTS, HIDDEN // HEADS) | {"qwen3": 16}


def make(name: str, *, blocks: int = 2, seed: int = 0) -> Any:
    """A language model in evaluation mode; every bias and norm differs from its usual value."""
    config_class, model_class, values = _CLASSES[name]
    count = {"n_layer" if "n_embd" in values else "num_hidden_layers": blocks}
    with quiet():
        torch.manual_seed(seed)
        config = getattr(transformers, config_class)(**values, **count)
        model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def batch(seed: int = 0) -> Tensor:
    """Token ids [3, 10]."""
    return torch.randint(2, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(seed))


def loss_of(model: Any, ids: Tensor | None = None) -> Tensor:
    """Next-token cross-entropy on ``batch()``."""
    ids = batch() if ids is None else ids
    loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def logits_of(model: Any) -> Tensor:
    """Logits on ``batch()``."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=batch(), use_cache=False).logits
    return logits


def attention(name: str, model: Any, block: int) -> Any:
    """The attention module of a block."""
    if name in ("gpt2", "bigcode"):
        return model.transformer.h[block].attn
    if name == "neox":
        return model.gpt_neox.layers[block].attention
    return model.model.layers[block].self_attn


def output_projection(name: str, model: Any, block: int) -> Any:
    """The layer whose inputs are the heads' outputs, side by side."""
    ends = {"gpt2": "c_proj", "bigcode": "c_proj", "neox": "dense"}
    return getattr(attention(name, model, block), ends.get(name, "o_proj"))


def owned(name: str, model: Any, block: int) -> dict[str, list[list[Slice]]]:
    """Role -> head -> the slices of the stored weights that this head owns."""
    module, w = attention(name, model, block), WIDTH[name]

    def run(head: int, start: int = 0) -> slice:
        return slice(start + head * w, start + (head + 1) * w)

    if name == "gpt2":  # stored transposed: an output is a column
        weight, out = module.c_attn.weight, module.c_proj.weight
        return {
            "qkv": [[(weight, (ALL, run(h, i * HIDDEN))) for i in range(3)] for h in range(HEADS)],
            "dense": [[(out, (run(h), ALL))] for h in range(HEADS)],
        }
    if name == "neox":  # query, key and value of one head are neighbours
        weight, out = module.query_key_value.weight, module.dense.weight
        return {
            "qkv": [[(weight, (slice(3 * w * h, 3 * w * (h + 1)), ALL))] for h in range(HEADS)],
            "dense": [[(out, (ALL, run(h)))] for h in range(HEADS)],
        }
    dense: list[list[Slice]] = [[(module.o_proj.weight, (ALL, run(h)))] for h in range(HEADS)]
    if name == "phi3":  # all queries, then all keys, then all values
        weight = module.qkv_proj.weight
        keys, values = HEADS * w, (HEADS + SHARED) * w
        return {
            "query": [[(weight, (run(h), ALL))] for h in range(HEADS)],
            "key-value": [
                [(weight, (run(h, keys), ALL)), (weight, (run(h, values), ALL))]
                for h in range(SHARED)
            ],
            "dense": dense,
        }
    query, key, value = module.q_proj.weight, module.k_proj.weight, module.v_proj.weight
    return {
        "query": [[(query, (run(h), ALL))] for h in range(HEADS)],
        "key-value": [[(key, (run(h), ALL)), (value, (run(h), ALL))] for h in range(SHARED)],
        "dense": dense,
    }


def masks(
    name: str, model: Any, heads: Mapping[str, Mapping[str, Sequence[int]]]
) -> dict[nn.Parameter, Tensor]:
    """What ``heads`` make trainable of each projection: a mask of the weight as it is stored."""
    found: dict[nn.Parameter, Tensor] = {}
    names = {module: path for path, module in model.named_modules()}
    for block in range(model.config.num_hidden_layers):
        chosen = heads.get(names[attention(name, model, block)], {})
        for role, by_head in owned(name, model, block).items():
            for slices in by_head:
                for weight, _ in slices:
                    found.setdefault(weight, torch.zeros(weight.shape, dtype=torch.bool))
            for head in chosen.get(role, ()):
                for weight, where in by_head[head]:
                    found[weight][where] = True
    return found
