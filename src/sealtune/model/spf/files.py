"""Write SPF to a folder and read it back strictly.

    spf_model.safetensors   ``<linear layer>.delta`` for each layer, float32, and modules to save
    spf_config.json         settings and the chosen heads

Trust domain: server enclave (bytes); whoever received the result (files).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sealtune.errors import AdapterMismatchError, ModelError
from sealtune.job.storage import write_atomic
from sealtune.model.spf.config import SPFConfig
from sealtune.model.spf.tuner import apply_spf, chosen_heads, spf_config, spf_state

SPF_WEIGHTS, SPF_CONFIG = "spf_model.safetensors", "spf_config.json"
M = TypeVar("M", bound=nn.Module)


class SPFFile(BaseModel):
    """``spf_config.json``.

    Attributes:
        format: of this file.
        config: the settings.
        heads: attention module -> role -> chosen heads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    config: SPFConfig
    heads: dict[str, dict[str, tuple[int, ...]]]


def spf_files(model: nn.Module) -> dict[str, bytes]:
    """The two files' contents by name.

    Raises:
        ModelError: there is no SPF on the model.
        AdapterMismatchError: a value is not finite.
    """
    state = {name: tensor.contiguous().cpu() for name, tensor in spf_state(model).items()}
    bad = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise AdapterMismatchError(f"{bad[0]} holds values that are not finite; nothing written")
    content = SPFFile.model_validate({"config": spf_config(model), "heads": chosen_heads(model)})
    text = json.dumps(content.model_dump(mode="json"), indent=2) + "\n"
    return {SPF_WEIGHTS: save(state, metadata={"format": "pt"}), SPF_CONFIG: text.encode()}


def save_spf(model: nn.Module, folder: Path) -> None:
    """Write ``model``'s SPF to ``folder``.

    Raises:
        ModelError, AdapterMismatchError: see ``spf_files``.
        StorageError: a file cannot be written.
    """
    for name, data in spf_files(model).items():
        write_atomic(folder / name, data)


def read_spf_config(folder: Path) -> SPFFile:
    """Read ``spf_config.json``.

    Raises:
        ModelError: it is not there, or is damaged.
    """
    return parse_spf_config(_read(folder / SPF_CONFIG), str(folder / SPF_CONFIG))


def parse_spf_config(data: bytes, source: str) -> SPFFile:
    """The same from bytes that are at hand; ``source`` is named in messages."""
    try:
        return SPFFile.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{source} is damaged, at {where}: {first['msg']}") from error


def load_spf(model: M, folder: Path) -> M:
    """Put a written SPF on the model that it was made for, in place.

    Raises:
        ModelError: no SPF is there, or the model has other heads.
        AdapterMismatchError: tensors are missing, unknown, of another shape or type, or not finite.
    """
    return install_spf(model, read_spf_config(folder), _read(folder / SPF_WEIGHTS), str(folder))


def install_spf(model: M, file: SPFFile, weights: bytes, source: str) -> M:
    """``load_spf`` from contents that are at hand; ``source`` is named in messages."""
    try:
        written: Mapping[str, Tensor] = load(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterMismatchError(f"{source}: {SPF_WEIGHTS} is damaged or cut short") from error
    apply_spf(model, file.config, heads=file.heads)
    own = spf_state(model)
    odd = sorted(own.keys() ^ written.keys())
    if odd:
        raise AdapterMismatchError(
            f"{source}: {len(odd)} tensors of SPF are missing or unknown, such as {odd[0]}",
            hint="it was made for another model, or with other settings",
        )
    for name, tensor in own.items():
        new = written[name]
        if new.shape != tensor.shape or new.dtype != torch.float32:
            raise AdapterMismatchError(
                f"{source}: {name} is {tuple(new.shape)} {new.dtype}, not {tuple(tensor.shape)} "
                "float32"
            )
        if not torch.isfinite(new).all():
            raise AdapterMismatchError(f"{source}: {name} holds values that are not finite")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(written[name])
    return model


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
            hint="give the folder that save_spf, or a run, has written",
        ) from error
