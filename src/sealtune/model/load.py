"""Load a public Hugging Face decoder: whole, or as shapes only on the ``meta`` device.

Weights are read from safetensors files only, never from pickles, and no code that comes with a
model is run.

Trust domain: client enclave (weights); every process (structure).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.spec import ModelSpec

HEAD = "score"  # the classification head's name in every Hugging Face decoder
STRUCTURE = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json",
             "added_tokens.json")  # fmt: skip
_DIGESTED = (*STRUCTURE, "*.safetensors", "*.safetensors.index.json")
_CHUNK = 1 << 22  # bytes read at a time


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


def model_folder(spec: ModelSpec, files: Sequence[str] = _DIGESTED) -> Path:
    """The folder that holds ``spec``'s files; a hub id is fetched into the hub's cache first.

    Args:
        spec: where the model is.
        files: patterns of what is fetched from a hub: by default all that a model needs.

    Raises:
        ModelError: no such folder, or the hub cannot be reached.
    """
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or spec.path.startswith((".", "~")) or spec.path.count("/") != 1:
        raise ModelError(
            f"there is no model folder {folder}",
            hint="check model.path; `sealtune demo-model` makes one without a network",
        )
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            found = snapshot_download(spec.path, revision=spec.revision, allow_patterns=list(files))
    except Exception as error:  # the hub client raises many unrelated classes
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"cannot fetch the model {spec.path} from the hub: {reason[0][:200]}",
            hint="check model.path and the network, or give a folder that holds the model",
        ) from error
    return Path(found)


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

    folder = model_folder(spec)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json, so it is not a Hugging Face model folder",
            hint="a folder made by save_pretrained holds config.json and model.safetensors",
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UnsupportedModelError(
            f"cannot read the model configuration in {folder}: {_first_line(error)}",
            hint="the installed transformers does not know this architecture",
        ) from error
    kind = str(config.model_type)
    # encoders have a switch that makes decoders of them; GPT-NeoX has it, too, without being one
    switched_off = getattr(config, "is_decoder", True) is False
    encoder = switched_off and kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.is_encoder_decoder or encoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"{folder.name} is a {kind} model, which is not a decoder-only language model",
            hint="use a decoder such as Llama, SmolLM, Qwen, Mistral, GLM or GPT-2",
        )
    return config


def load_model(spec: ModelSpec, num_labels: int | None, *, meta: bool = False) -> Any:
    """Load the backbone in float32, in evaluation mode, every parameter frozen.

    Args:
        spec: where the model is, and its task.
        num_labels: number of classes; used for the classification head only.
        meta: give shapes without weights (``meta`` device).

    Returns:
        AutoModelForSequenceClassification (its fresh head is named ``score``) for the task
        ``classification``, otherwise AutoModelForCausalLM.

    Raises:
        ModelError: files are missing, damaged, or lack tensors.
        UnsupportedModelError: not a decoder, or it has no classification head.
    """
    factory, config = factory_and_config(spec, num_labels)
    with quiet():
        model = _on_meta(factory, config) if meta else _from_files(factory, config, spec)
    if spec.task == "classification":
        require_head(model)
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


def load_tokenizer(spec: ModelSpec) -> Any:
    """The model's tokenizer, padding on the right, with a padding token.

    Raises:
        ModelError: the folder holds no tokenizer that can be read.
    """
    from transformers import AutoTokenizer

    folder = model_folder(spec)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # damaged files surface as any class here
        raise ModelError(
            f"cannot load the tokenizer in {folder}: {_first_line(error)}",
            hint="the folder must hold tokenizer.json or the model's own vocabulary files",
        ) from error
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"the tokenizer in {folder} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_digest(spec: ModelSpec) -> str:
    """SHA-256 (hex) over the names and bytes of config, safetensors and tokenizer files.

    Raises:
        ModelError: the folder holds no safetensors file.
    """
    folder = model_folder(spec)
    files = sorted({path for pattern in _DIGESTED for path in folder.glob(pattern)})
    if not any(path.suffix == ".safetensors" for path in files):
        raise _no_weights(folder)
    total = hashlib.sha256(b"sealtune model digest 1\n")
    for path in files:
        stat = path.stat()
        digest = _file_digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)
        total.update(f"{path.name}\n{digest}\n".encode())
    return total.hexdigest()


@lru_cache(maxsize=256)
def _file_digest(path: str, _size: int, _mtime_ns: int) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _on_meta(factory: Any, config: Any) -> Any:
    with torch.device("meta"):
        return factory.from_config(config, dtype=torch.float32, trust_remote_code=False)


def _from_files(factory: Any, config: Any, spec: ModelSpec) -> Any:
    folder = model_folder(spec)
    weight_files(folder)
    try:
        model, info = factory.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # damaged files surface as any class here
        raise ModelError(
            f"cannot load the model in {folder}: {_first_line(error)}",
            hint="the files may be damaged or of another architecture: fetch them again",
        ) from error
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(f"{HEAD}."))
    if missing:
        raise ModelError(
            f"the weights in {folder} lack {len(missing)} tensors, such as {missing[0]}",
            hint="the files belong to another architecture, or a part of them is missing",
        )
    return model


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a base model: every part that its index names, or the only one.

    Raises:
        ModelError: there is none, a part is missing, or something would redirect loading.
    """
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise _no_weights(folder)
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds an adapter_config.json, which would redirect loading elsewhere",
            hint="model.path must be the folder of a base model, without an adapter",
        )
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return found
    try:
        parts = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged") from error
    outside = sorted(str(part) for part in parts if Path(str(part)).name != part)
    if outside or not all(str(part).endswith(".safetensors") for part in parts):
        raise ModelError(
            f"{index} names a part outside its folder, such as {(outside or sorted(parts))[0]}",
            hint="the model's digest covers the folder's own safetensors files only",
        )
    absent = sorted(part for part in parts if not os.path.isfile(folder / str(part)))
    if absent:
        raise ModelError(f"{folder} lacks {absent[0]}, one of the model's {len(parts)} parts")
    return [folder / str(part) for part in sorted(parts)]


def _no_weights(folder: Path) -> ModelError:
    return ModelError(
        f"{folder} holds no .safetensors file",
        hint="pickled weights (.bin, .pt) are not read: save the model again as safetensors",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
