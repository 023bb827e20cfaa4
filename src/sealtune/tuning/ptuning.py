"""P-tuning v2 through ``peft``: keys and values of virtual tokens before every block.

Where every block has them, the files are PEFT's (prefix tuning), and plain PEFT loads them
anywhere. PEFT has no form for a prefix of the blocks behind a cut, and would put it on others
without a word, so those are files of our own.

What is trained through a multi-layer perceptron is written as the keys and values that come out.

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from peft import PrefixTuningConfig
from torch import Tensor

from sealtune.errors import AdapterMismatchError, ModelError, UnsupportedModelError
from sealtune.job.plan import FirstValue
from sealtune.job.printable import first_line
from sealtune.job.sections import HEAD, PtuningSpec
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import (
    load_trainable_state,
    read_tensors,
    trainable_state,
    write_tensors,
)
from sealtune.tuning.file_names import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    PTUNING_CONFIG,
    PTUNING_WEIGHTS,
)
from sealtune.tuning.head import fresh_head, is_head
from sealtune.tuning.prefix import Prefix
from sealtune.tuning.tuner import Context, Tuner

# families whose attention was held against keys and values put before it by hand
FAMILIES = (
    "cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode",
    "gpt_neox", "granite", "helium", "llama", "mistral", "nemotron", "olmo", "olmo2", "phi", "phi3",
    "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
_TABLE, _EMBEDDING = "prompt_embeddings", "prompt_encoder.embedding.weight"  # in a file, a model
_PEFT_HEAD = "base_model."  # what PEFT's names of the head begin with
_DEVIATION = 0.02
_ELSEWHERE = ("base_model_name_or_path", "inference_mode", "peft_version")  # of the file alone


class Ptuning(Tuner):
    """Virtual tokens: what is trained is their keys and values in each block."""

    name = "ptuning"
    stays_apart = "its virtual tokens are keys and values, not weights of the model"

    def apply(self, model: Any, settings: PtuningSpec, context: Context) -> Any:
        """Give ``model`` a trainable prefix (and head), in float32.

        Raises:
            UnsupportedModelError: its attention cannot take a prefix, or was not tried with one.
        """
        first = context.layers[0] if context.layers else 0
        config = _config(model, settings.virtual_tokens, first, head=context.head)
        if settings.projection:
            config.prefix_projection = True
            config.encoder_hidden_size = settings.hidden or int(model.config.hidden_size)
        _put_prefix(model, config, first)
        if context.head:
            fresh_head(model, context.seed)
        return model

    def first_value(
        self, name: str, shape: tuple[int, ...], settings: PtuningSpec
    ) -> FirstValue | None:
        """Small and normal; a perceptron's biases [N] are zero."""
        if not name.startswith("prompt_encoder."):
            return None
        if len(shape) == 1:
            return FirstValue(law="constant", scale=0)
        return FirstValue(law="normal", scale=_DEVIATION)

    def state(self, model: Any) -> dict[str, Tensor]:
        """The keys and values, whatever they were trained through, and the head."""
        head = {name: t for name, t in trainable_state(model).items() if is_head(name)}
        return {_TABLE: model.prompt_encoder.table().detach(), **head}

    def write(self, model: Any, base_model: str) -> dict[str, bytes]:
        """PEFT's two files, or our own for the blocks behind a cut."""
        prefix, state = model.prompt_encoder, self.state(model)
        head = len(state) > 1
        if prefix.first:
            settings = {"first_block": prefix.first, "virtual_tokens": prefix.tokens, "head": head}
            text = json.dumps({"format": 1, **settings}, indent=2, sort_keys=True) + "\n"
            return {PTUNING_WEIGHTS: write_tensors(state), PTUNING_CONFIG: text.encode()}
        settings = _plain_settings(_config(model, prefix.tokens, 0, head=head))
        settings |= {"base_model_name_or_path": base_model, "inference_mode": True}
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        named = {_PEFT_HEAD + n if is_head(n) else n: tensor for n, tensor in state.items()}
        return {PEFT_WEIGHTS: write_tensors(named), PEFT_CONFIG: text.encode()}

    def install(self, model: Any, files: Mapping[str, bytes], source: str) -> Any:
        """A prefix that is what it is, without a perceptron; every tensor compared."""
        ours = PTUNING_CONFIG in files
        config_name, weights = (
            (PTUNING_CONFIG, PTUNING_WEIGHTS) if ours else (PEFT_CONFIG, PEFT_WEIGHTS)
        )
        where = f"{source}: {config_name}"
        read = _read_own if ours else _read_peft
        config, first = read(model, files[config_name], where)
        written = read_tensors(files[weights], f"{source}: {weights}")
        _put_prefix(model, config, first)
        if config.modules_to_save:
            fresh_head(model, 0)
        state = {
            _EMBEDDING if n == _TABLE else n.removeprefix(_PEFT_HEAD): tensor
            for n, tensor in written.items()
        }
        if len(state) < len(written):
            raise AdapterMismatchError(f"{source}: {weights} holds a tensor twice")
        load_trainable_state(model, state, source)
        return model


def _config(model: Any, tokens: int, first: int, *, head: bool) -> PrefixTuningConfig:
    """PEFT's settings for ``model``, with all sizes, without a perceptron."""
    config = model.config
    if config.model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"[tuning.ptuning] does not know how {type(model).__name__} ({config.model_type}) "
            "attends to a prefix",
            hint=f"use [tuning.lora], or a model of the families {', '.join(FAMILIES)}",
        )
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    own = getattr(config, "head_dim", None)
    size = int(own or config.hidden_size // config.num_attention_heads)
    return PrefixTuningConfig(
        task_type="SEQ_CLS" if hasattr(model, HEAD) else "CAUSAL_LM",
        num_virtual_tokens=tokens,
        num_transformer_submodules=1,
        num_layers=len(find_blocks(model)[1]) - first,
        num_attention_heads=heads,
        token_dim=heads * size,
        modules_to_save=[HEAD] if head else None,
    )


def _put_prefix(model: Any, config: PrefixTuningConfig, first: int) -> None:
    with torch.device(next(model.parameters()).device):
        Prefix(config, first).float().put_on(model)


def _plain_settings(config: PrefixTuningConfig) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return settings | {"peft_type": "PREFIX_TUNING"}


def _read_peft(model: Any, data: bytes, source: str) -> tuple[PrefixTuningConfig, int]:
    """The settings in PEFT's file, which must be such as ``write`` makes for this model."""
    written = _read_json(data, source)
    head = written.get("modules_to_save") is not None
    config = _config(model, _tokens(written, "num_virtual_tokens", source), 0, head=head)
    expected = _plain_settings(config)
    odd = sorted(
        key
        for key in expected.keys() | written.keys()
        if key not in _ELSEWHERE and written.get(key) != expected.get(key)
    )
    if odd:
        raise AdapterMismatchError(
            f"{source} sets {odd[0][:40]} otherwise than a job does for this model"
        )
    return config, 0


def _read_own(model: Any, data: bytes, source: str) -> tuple[PrefixTuningConfig, int]:
    written = _read_json(data, source)
    first, head = written.get("first_block"), written.get("head")
    blocks = len(find_blocks(model)[1])
    if (
        set(written) != {"format", "first_block", "virtual_tokens", "head"}
        or written["format"] != 1
        or not isinstance(head, bool)
        or type(first) is not int
        or not 0 < first < blocks
    ):
        raise AdapterMismatchError(f"{source} is not of a model with {blocks} blocks")
    return _config(model, _tokens(written, "virtual_tokens", source), first, head=head), first


def _read_json(data: bytes, source: str) -> dict[str, Any]:
    try:
        written = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{source} is damaged: {first_line(error)}") from error
    if not isinstance(written, dict):
        raise ModelError(f"{source} is damaged: it holds no JSON object")
    return written


def _tokens(written: Mapping[str, Any], key: str, source: str) -> int:
    """How many virtual tokens a file says; a job may ask for as many."""
    tokens = written.get(key)
    most = 1024
    if type(tokens) is not int or not 1 <= tokens <= most:
        raise AdapterMismatchError(f"{source} has not 1 to {most} virtual tokens")
    return tokens
