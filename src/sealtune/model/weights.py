"""Tensors of safetensors files by the model's names, one by one.

Trust domain: every process that reads a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.model.files import ModelFiles

_PIECE = 1 << 23  # bytes


class Weights:
    """A model's safetensors files, opened but not read.

    Args:
        files: of the model.
        prefix: what a file of the bare decoder leaves out of its names.
        renamed: a file's name of a tensor -> the model's.

    Raises (on entering):
        ModelError: a file is damaged, or two tensors have one name.
    """

    def __init__(self, files: ModelFiles, prefix: str, renamed: Callable[[str], str] = str) -> None:
        self._files = files
        self._renamed = renamed
        self._prefix = f"{prefix}."
        self._where: dict[str, tuple[Path, safe_open, str]] = {}

    def __enter__(self) -> Weights:
        with ExitStack() as stack:  # closed here, unless all of them can be read
            try:
                for path in self._files.tensors:
                    file = stack.enter_context(safe_open(path, framework="pt"))
                    for key in file.keys():  # noqa: SIM118
                        self._add(self._renamed(key), path, file, key)
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"cannot read the model in {self._files.folder}: {error}",
                    hint="the files may be damaged or cut short: fetch them again",
                ) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def find(self, names: Sequence[str], shape: tuple[int, ...]) -> tuple[Path, str]:
        """Where the first of ``names`` is that there is."""
        for name in names:
            if name in self._where:
                path, file, key = self._where[name]
                stored = tuple(file.get_slice(key).get_shape())
                if stored != shape:
                    raise ModelError(
                        f"{name} in {self._files.folder} is {stored}, not {shape}",
                        hint="weights and config.json belong to different models",
                    )
                return path, key
        raise ModelError(
            f"the weights in {self._files.folder} lack {names[0]}",
            hint="the files belong to another architecture, or a part of them is missing",
        )

    def read(self, names: Sequence[str], shape: tuple[int, ...]) -> Tensor:
        """The first of ``names`` that there is, in memory of its own."""
        path, key = self.find(names, shape)
        try:
            return _read(path, key, shape)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{key} in {self._files.folder} cannot be read") from error

    def _add(self, name: str, path: Path, file: safe_open, key: str) -> None:
        forms = {name, name.removeprefix(self._prefix), self._prefix + name}
        if forms & self._where.keys():
            raise ModelError(
                f"the weights in {self._files.folder} hold {key} twice",
                hint="which of the two is meant cannot be known: fetch the model again",
            )
        self._where[name] = path, file, key


def _read(path: Path, key: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor, piece by piece; the file is opened for each anew, so that little stays mapped."""
    tensor, start = torch.empty(0), 0
    while not start or start < shape[0]:
        with safe_open(path, framework="pt") as file:
            if not shape:
                whole: Tensor = file.get_tensor(key)
                return whole.clone()
            source = file.get_slice(key)
            if not start:
                tensor = torch.empty(shape, dtype=source[:0].dtype)
            rows = max(1, _PIECE * shape[0] // max(1, tensor.nbytes))
            tensor[start : start + rows] = source[start : start + rows]
            start += rows
    return tensor


def renaming(model: Any) -> Callable[[str], str]:
    """How transformers renames what older files call otherwise (GPT-NeoX's ``embed_out``)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, apply_renamings

    mapping = get_model_conversion_mapping(model)
    renamings = [t for t in mapping if isinstance(t, WeightRenaming)]
    if len(renamings) < len(mapping):
        raise UnsupportedModelError(
            f"a part of {type(model).__name__} cannot be loaded alone: its files hold tensors "
            "(experts) that are put together on loading",
            hint='use a dense decoder, or job.method = "federated-lora"',
        )
    return lambda key: str(apply_renamings(key, renamings))
