"""Load a public Hugging Face decoder: whole, or as shapes only on the ``meta`` device.

What is read is what ``model.files`` says: safetensors files only, never pickles, and no code that
comes with a model is run.

Trust domain: client enclave (weights); every process (structure).
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.printable import first_line
from sealtune.job.sections import HEAD
from sealtune.job.spec import ModelSpec
from sealtune.model.files import model_files
from sealtune.model.weights import Weights

# how configurations say that a token attends to those behind it, and so to padding
_LOOKS_AHEAD: dict[str, tuple[object, ...]] = {
    "use_bidirectional_attention": (True, "all"),  # Gemma
    "causal": (False,),  # XLM
    "attn_type": ("bi",),  # XLNet
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and advice to their own developers off the terminal."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _reading(what: str, hint: str, refusal: type[ModelError] = ModelError) -> Iterator[None]:
    """Damaged files surface as any class of error in transformers."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise refusal(f"cannot {what}: {first_line(error)}", hint=hint) from error


def load_config(spec: ModelSpec) -> Any:
    """The model's Hugging Face configuration, refused unless it is of a decoder.

    Raises:
        UnsupportedModelError: an encoder, an encoder-decoder, or an architecture unknown here.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    files = model_files(spec, weights=False)
    folder, view = files.folder, files.view()
    with _reading(
        f"read the model configuration in {folder}",
        "the installed transformers does not know this architecture",
        UnsupportedModelError,
    ):
        config = AutoConfig.from_pretrained(view, trust_remote_code=False)
    kind = str(config.model_type)
    # encoders have a switch that makes decoders of them; GPT-NeoX has it, too, without being one
    switched_off = getattr(config, "is_decoder", True) is False
    encoders = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    encoder = switched_off and kind in encoders
    if config.is_encoder_decoder or encoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"{folder.name} is a {kind} model, which is not a decoder-only language model",
            hint="use a decoder such as Llama, SmolLM, Qwen, Mistral, GLM or GPT-2",
        )
    for key, values in _LOOKS_AHEAD.items():
        if (value := getattr(config, key, None)) in values:
            raise UnsupportedModelError(
                f"{folder.name} is a {kind} model whose tokens attend to those behind them "
                f"({key} = {json.dumps(value)}), which is not a decoder-only language model",
                hint="use a decoder such as Llama, SmolLM, Qwen, Mistral, GLM or GPT-2",
            )
    if config.get_text_config() is not config:
        raise UnsupportedModelError(
            f"{folder.name} is a multimodal {kind} model: its decoder is a part of it",
            hint="use the text-only version of the model",
        )
    config.name_or_path = str(folder)
    return config


def load_model(
    spec: ModelSpec,
    num_labels: int | None,
    *,
    dtype: torch.dtype = torch.float32,
    meta: bool = False,
) -> Any:
    """Load the backbone, in evaluation mode, every parameter frozen.

    Args:
        spec: where the model is, and its task.
        num_labels: number of classes; used for the classification head only.
        dtype: type of the weights; a fresh head is float32.
        meta: give shapes without weights (``meta`` device).

    Returns:
        AutoModelForSequenceClassification (its fresh head is named ``score``) for the task
        ``classification``, otherwise AutoModelForCausalLM.

    Raises:
        ModelError: files are missing, damaged, or lack tensors.
        UnsupportedModelError: not a decoder, or it has no classification head.
    """
    factory, config = factory_and_config(spec, num_labels)
    if meta:
        with quiet(), torch.device("meta"):
            model = factory.from_config(config, dtype=dtype, trust_remote_code=False)
    else:
        model = _from_files(factory, config, spec, dtype)
    if spec.task == "classification":
        require_head(model)
        keep_head_in_float32(model)
    model.requires_grad_(False)
    return model.eval()


def factory_and_config(spec: ModelSpec, num_labels: int | None) -> tuple[Any, Any]:
    """The Hugging Face class that makes ``spec``'s model, and the configuration for it.

    Raises:
        ModelError: no number of labels for a classification head, or see ``load_config``.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    config = load_config(spec)
    classify = spec.task == "classification"
    if classify and not num_labels:
        raise ModelError("a classification head needs the number of labels")
    if classify:
        config.num_labels = num_labels
    if classify or getattr(config, "pad_token_id", None) is None:
        # one padding token for both: the head reads a text's class before its padding
        config.pad_token_id = load_tokenizer(spec).pad_token_id
    factory = AutoModelForSequenceClassification if classify else AutoModelForCausalLM
    if type(config) not in factory._model_mapping:
        raise UnsupportedModelError(
            f"transformers has no {config.model_type} model with a classification head",
            hint="set model.task to 'label-words', which needs no head",
        )
    return factory, config


def require_head(model: Any) -> None:
    """Raise UnsupportedModelError unless ``model`` has a linear classification head."""
    if not isinstance(getattr(model, HEAD, None), nn.Linear):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no linear head named '{HEAD}'",
            hint="set model.task to 'label-words', which needs no head",
        )


def keep_head_in_float32(model: Any) -> None:
    """The classification head is tuned, so it is float32 whatever the frozen weights are."""
    head = getattr(model, HEAD).float()
    head.register_forward_pre_hook(_in_float32)


def _in_float32(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weight = next(head.parameters())  # a test may have made all of it float64
    return (args[0].to(weight.dtype), *args[1:])


def load_tokenizer(spec: ModelSpec) -> Any:
    """The model's tokenizer, padding on the right, with a padding token.

    Raises:
        ModelError: the folder holds no tokenizer that can be read.
    """
    from transformers import AutoTokenizer

    files = model_files(spec, weights=False)
    folder, view = files.folder, files.view()
    with _reading(
        f"load the tokenizer in {folder}",
        "the folder must hold tokenizer.json or the model's own vocabulary files",
    ):
        tokenizer = AutoTokenizer.from_pretrained(view, trust_remote_code=False)
    tokenizer.name_or_path = str(folder)
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"the tokenizer in {folder} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _from_files(factory: Any, config: Any, spec: ModelSpec, dtype: torch.dtype) -> Any:
    files = model_files(spec)
    folder, view = files.folder, files.view()
    with _reading(
        f"load the model in {folder}",
        "the files may be damaged or of another architecture: fetch them again",
    ):
        model, info = factory.from_pretrained(
            view,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model.name_or_path = model.config.name_or_path = str(folder)
    with Weights(files, model.base_model_prefix):
        pass  # a name that stands there twice is refused
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(f"{HEAD}."))
    if missing:
        raise ModelError(
            f"the weights in {folder} lack {len(missing)} tensors, such as {missing[0]}",
            hint="the files belong to another architecture, or a part of them is missing",
        )
    return model
