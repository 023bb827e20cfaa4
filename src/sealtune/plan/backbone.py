"""The frozen backbone as int8: one code matrix and one step per output channel.

The file is a pure function of the model, so every party makes the same bytes and agrees on their
digests.

Trust domain: none of its own; it handles public weights only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from sealtune.job.cache import cache_folder
from sealtune.job.plan import Backbone
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import replacing, storage_error
from sealtune.model.files import model_digest
from sealtune.model.quantise import quantise
from sealtune.model.rest import read_layers
from sealtune.offload.wire import tensor_bytes

_FORM = "2"  # of rounding: files that another one made are left alone


def prepare_backbone(spec: ModelSpec, linear: Sequence[str]) -> Backbone:
    """The int8 file for the named linear layers, made once and kept in the cache.

    Args:
        spec: the public model.
        linear: dotted names of the frozen linear layers.
    """
    names = hashlib.sha256(json.dumps([_FORM, *sorted(linear)]).encode()).hexdigest()
    key = f"{model_digest(spec)[:24]}-{names[:8]}"
    path = cache_folder() / "backbones" / f"{key}.safetensors"
    if not path.is_file():
        _write(spec, linear, path)
    with safe_open(path, framework="pt") as file:
        stored = sorted(file.keys())
    return Backbone(path=str(path), tensors={name: _digest(path, name) for name in stored})


def _digest(path: Path, name: str) -> str:
    """Of one tensor; the file is opened for it alone, so that no more stays in memory."""
    with safe_open(path, framework="pt") as file:
        return hashlib.sha256(tensor_bytes(file.get_tensor(name))).hexdigest()


def _write(spec: ModelSpec, linear: Sequence[str], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, module, weight in read_layers(spec, linear):
        codes, scale = quantise(weight.t() if isinstance(module, Conv1D) else weight)
        tensors[f"{name}.weight"], tensors[f"{name}.scale"] = codes.contiguous(), scale
    with replacing(path) as part:
        try:
            save_file(tensors, part)
        except SafetensorError as error:  # a full disk
            raise storage_error(path, error) from error
