"""Write SPF to a folder and read it back strictly.

    spf_model.safetensors   ``<linear layer>.delta`` for each layer, float32, and modules to save
    spf_config.json         settings and the chosen heads

Trust domain: server enclave (bytes); whoever received the result (files).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from sealtune.errors import AdapterMismatchError, ModelError
from sealtune.job.storage import reason, write_atomic
from sealtune.model.trainable import copy_tensors, read_tensors, write_tensors
from sealtune.tuning.file_names import SPF_CONFIG, SPF_WEIGHTS
from sealtune.tuning.spf.apply import (
    apply_spf,
    check_counts,
    chosen_heads,
    remove_spf,
    spf_config,
    spf_state,
)
from sealtune.tuning.spf.config import SPFConfig

M = TypeVar("M", bound=nn.Module)


class SPFFile(BaseModel):
    """``spf_config.json``.

    Attributes:
        format: of this file.
        config: the settings.
        weights: SHA-256 (hex) of the file with the deltas: the two belong together.
        heads: attention module -> role -> chosen heads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    config: SPFConfig
    weights: str = Field(pattern=r"^[0-9a-f]{64}$")
    heads: dict[str, dict[str, tuple[int, ...]]]


def spf_files(model: nn.Module) -> dict[str, bytes]:
    """The two files' contents by name.

    Raises:
        ModelError: there is no SPF on the model.
        AdapterMismatchError: a value is not finite.
    """
    weights = write_tensors({name: t.float() for name, t in spf_state(model).items()})
    digest = hashlib.sha256(weights).hexdigest()
    content = SPFFile(config=spf_config(model), weights=digest, heads=chosen_heads(model))
    text = json.dumps(content.model_dump(mode="json"), indent=2) + "\n"
    return {SPF_WEIGHTS: weights, SPF_CONFIG: text.encode()}


def save_spf(model: nn.Module, folder: str | Path) -> None:
    """Write ``model``'s SPF to ``folder``.

    Raises:
        ModelError, AdapterMismatchError: see ``spf_files``.
        StorageError: a file cannot be written.
    """
    for name, data in spf_files(model).items():
        write_atomic(Path(folder) / name, data)


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


def load_spf(model: M, folder: str | Path) -> M:
    """Put a written SPF on the model that it was made for, in place.

    Raises:
        ModelError: no SPF is there, or the model has other heads.
        AdapterMismatchError: tensors are missing, unknown, of another shape or type, or not finite.
    """
    folder = Path(folder)
    return install_spf(model, read_spf_config(folder), _read(folder / SPF_WEIGHTS), str(folder))


def install_spf(model: M, file: SPFFile, weights: bytes, source: str) -> M:
    """``load_spf`` from contents that are at hand; ``source`` is named in messages."""
    if hashlib.sha256(weights).hexdigest() != file.weights:
        raise AdapterMismatchError(
            f"{source}: {SPF_WEIGHTS} is damaged, or of another time than {SPF_CONFIG}",
            hint="save both again, or get both again",
        )
    written = read_tensors(weights, f"{source}: {SPF_WEIGHTS}")
    check_counts(model, file.config, file.heads)
    apply_spf(model, file.config, heads=file.heads)
    try:
        copy_tensors(spf_state(model), written, source)
    except AdapterMismatchError:
        remove_spf(model)
        raise
    return model


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {reason(error)}",
            hint="give the folder that save_spf, or a run, has written",
        ) from error
