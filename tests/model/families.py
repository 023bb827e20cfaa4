"""Tiny random decoders of many families, with whatever each does to its logits made to count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sealtune.model.load import quiet
from tests.model.tiny import make_tokenizer

VOCABULARY = 400
_USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
    "initializer_range": 0.3, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
_ALL_HEADS = {**_USUAL, "num_key_value_heads": 4}

# name -> model type, values of its config
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _USUAL),
    "llama-tied": ("llama", {**_USUAL, "tie_word_embeddings": True}),
    "mistral": ("mistral", _USUAL),
    "qwen2": ("qwen2", _USUAL),
    "qwen3": ("qwen3", {**_USUAL, "head_dim": 8}),
    "phi": ("phi", _ALL_HEADS),  # a bias on the output matrix
    "phi3": ("phi3", _USUAL),
    "gemma": ("gemma", {**_USUAL, "head_dim": 8}),
    # a soft cap on the logits
    "gemma2": ("gemma2", {**_USUAL, "head_dim": 8, "final_logit_softcapping": 2.0}),
    "gemma3": (
        "gemma3_text",
        {**_USUAL, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 2.0},
    ),
    "granite": ("granite", {**_USUAL, "logits_scaling": 16.0, "embedding_multiplier": 3.0}),
    "cohere": ("cohere", {**_USUAL, "logit_scale": 0.1}),
    "cohere2": ("cohere2", {**_USUAL, "logit_scale": 0.1, "sliding_window": 4}),
    "gpt2": ("gpt2", _GPT2),
    "gpt-neox": ("gpt_neox", {k: v for k, v in _USUAL.items() if k != "num_key_value_heads"}),
    "bigcode": ("gpt_bigcode", {**_GPT2, "multi_query": False}),
    "olmo": ("olmo", _USUAL),
    "olmo2": ("olmo2", _USUAL),
    "stablelm": ("stablelm", _USUAL),
    "starcoder2": ("starcoder2", _USUAL),
    "glm": ("glm", {**_USUAL, "head_dim": 8}),
    "glm4": ("glm4", {**_USUAL, "head_dim": 8}),
    "smollm3": ("smollm3", _USUAL),
    "helium": ("helium", {**_USUAL, "head_dim": 8}),
    "nemotron": ("nemotron", _USUAL),
    "opt": ("opt", {**_USUAL, "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "gptj": ("gptj", {**_GPT2, "rotary_dim": 4}),  # a bias on the output matrix
    "codegen": ("codegen", {**_GPT2, "rotary_dim": 4}),
    "falcon": ("falcon", {**_USUAL, "new_decoder_architecture": False}),
    "bloom": ("bloom", {**_USUAL, "n_layer": 3, "n_head": 4}),
    "mpt": ("mpt", {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 3,
                    "max_seq_len": 64, "expansion_ratio": 2}),
}  # fmt: skip


def make_family(name: str, folder: Path) -> Path:
    """Write the model, whose every bias and norm differs from its usual value, and a tokenizer."""
    kind, values = FAMILIES[name]
    with quiet():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.5 * torch.randn(parameter.shape))
        model.save_pretrained(folder)
    make_tokenizer(folder)
    return folder
