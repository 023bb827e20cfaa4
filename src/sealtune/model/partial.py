"""Load some blocks of a public decoder and nothing else: no other block's weights are ever read.

    bottom = load_part(spec, None, cut, "bottom")     # embedding and blocks 0 .. cut-1
    top = load_part(spec, labels, cut, "top")         # blocks cut .. end, final norm, head

Blocks that are not there are stood in for by modules without weights, so that every module keeps
its name and its number; an adapter trained on the top fits the whole model.

Trust domain: data owner (bottom), server enclave (top).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.spec import ModelSpec
from sealtune.model.load import (
    HEAD,
    factory_and_config,
    model_folder,
    quiet,
    require_head,
    weight_files,
)
from sealtune.model.structure import find_blocks

PartName = Literal["bottom", "top"]


class Elsewhere(nn.Module):
    """Stands in for a block that runs at another party: hands its input on."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        kind = getattr(block, "attention_type", None)  # some decoders ask each block for it
        if kind is not None:
            self.attention_type = kind

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """``hidden_states`` as they are."""
        return hidden_states


class NoEmbedding(nn.Module):
    """Stands in for the embedding in a top: zeros of the right shape, which nobody uses."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(1, 1, width, dtype=dtype), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Zeros [B, T, D] for ids [B, T]."""
        zero: Tensor = self.zero  # type: ignore[assignment]
        return zero.expand(*ids.shape, -1)


def load_part(
    spec: ModelSpec,
    num_labels: int | None,
    cut: int,
    part: PartName,
    *,
    dtype: torch.dtype = torch.float32,
    meta: bool = False,
) -> Any:
    """A part of the model, in evaluation mode, every parameter frozen.

    Args:
        spec: where the model is, and its task.
        num_labels: number of classes; used for the classification head of a top only.
        cut: number of blocks in the bottom.
        part: which part. A bottom has no head; a top has no embedding.
        dtype: type of the weights; a fresh head is float32.
        meta: give shapes without weights.

    Returns:
        The model class of ``load_model``. A fresh classification head holds zeros.

    Raises:
        ModelError: files are missing, damaged, or lack tensors.
        UnsupportedModelError: not a decoder, or of a build that cannot be cut.
    """
    if part == "bottom":
        spec = spec.model_copy(update={"task": "causal-lm"})  # it has no head, whatever the task
    factory, config = factory_and_config(spec, num_labels)
    refuse_uncuttable(config)
    model = _without_weights(factory, config, dtype)
    if spec.task == "classification":
        require_head(model)
        getattr(model, HEAD).register_forward_pre_hook(_in_float32)
    _, blocks = find_blocks(model)
    for number, block in enumerate(blocks):
        if (number < cut) != (part == "bottom"):
            blocks[number] = Elsewhere(block)
    embedding = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    if part == "top":
        width = int(model.get_input_embeddings().weight.shape[1])
        model.set_submodule(embedding, NoEmbedding(width, dtype))
    else:
        model.set_submodule(_output_name(model), nn.Identity())
    if not meta:
        folder = model_folder(spec)
        with quiet(), _Weights(folder, model) as weights:
            _fill(model, weights, f"{embedding}.weight", dtype)
    model.requires_grad_(False)
    return model.eval()


def refuse_uncuttable(config: Any) -> None:
    """Decoders whose later blocks need more of the earlier ones than their output."""
    for key, what in (
        ("hidden_size_per_layer_input", "look at the tokens again"),
        ("num_kv_shared_layers", "use keys and values of earlier ones"),
    ):
        if getattr(config, key, None):
            raise UnsupportedModelError(
                f"a {config.model_type} model cannot be cut: its later blocks {what} ({key})",
                hint='use another decoder, or job.method = "federated-lora"',
            )


def _in_float32(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The head is tuned, so it is float32 whatever the frozen weights are."""
    return (args[0].float(), *args[1:])


def _without_weights(factory: Any, config: Any, dtype: torch.dtype) -> Any:
    """The model with parameters on ``meta`` and buffers (rotary frequencies) computed."""
    from accelerate import init_empty_weights

    with quiet(), init_empty_weights(include_buffers=False):
        return factory.from_config(config, dtype=dtype, trust_remote_code=False)


def _output_name(model: Any) -> str:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head:
            return str(name)
    raise UnsupportedModelError(f"{type(model).__name__} has no output matrix of its own")


def _fill(model: Any, weights: _Weights, embedding: str, dtype: torch.dtype) -> None:
    """Read every parameter and every persistent buffer of ``model``."""
    prefix = f"{model.base_model_prefix}."
    parameters = dict(model.named_parameters())
    for name, tensor in model.state_dict(keep_vars=True).items():  # persistent buffers, too
        if name.startswith(f"{HEAD}."):
            value = torch.zeros(tensor.shape)  # fresh: nothing to read, and float32 to be tuned
        else:
            # files of a bare decoder lack the prefix; a tied output matrix is the embedding
            known = [name, name.removeprefix(prefix), prefix + name]
            if name.rpartition(".")[0] == _tied_name(model):
                known += [embedding, embedding.removeprefix(prefix)]
            value = weights.read(known, tuple(tensor.shape))
            value = value.to(dtype) if value.is_floating_point() else value
        owner, _, leaf = name.rpartition(".")
        found = nn.Parameter(value, requires_grad=False) if name in parameters else value
        setattr(model.get_submodule(owner), leaf, found)


def _tied_name(model: Any) -> str:
    """Name of the output matrix if it may be the embedding again, otherwise an impossible one."""
    head = model.get_output_embeddings()
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    return _output_name(model) if tied and isinstance(head, nn.Linear) else " "


class _Weights:
    """The safetensors files of a folder, opened but not read; names as ``model`` has them."""

    def __init__(self, folder: Path, model: Any) -> None:
        self._folder = folder
        self._renamed = _renaming(model)
        self._stack = ExitStack()
        self._where: dict[str, Callable[[], Tensor]] = {}

    def __enter__(self) -> _Weights:
        try:
            for path in weight_files(self._folder):
                file = self._stack.enter_context(safe_open(path, framework="pt"))
                for key in file.keys():  # noqa: SIM118
                    self._where[self._renamed(key)] = partial(file.get_tensor, key)
        except (SafetensorError, OSError) as error:
            self._stack.close()
            raise ModelError(
                f"cannot read the model in {self._folder}: {error}",
                hint="the files may be damaged or cut short: fetch them again",
            ) from error
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def read(self, names: list[str], shape: tuple[int, ...]) -> Tensor:
        """The first of ``names`` that there is."""
        for name in names:
            if name in self._where:
                try:
                    tensor = self._where[name]()
                except (SafetensorError, OSError) as error:
                    raise ModelError(f"{name} in {self._folder} cannot be read") from error
                if tuple(tensor.shape) != shape:
                    raise ModelError(
                        f"{name} in {self._folder} is {tuple(tensor.shape)}, not {shape}",
                        hint="weights and config.json belong to different models",
                    )
                return tensor
        raise ModelError(
            f"the weights in {self._folder} lack {names[0]}",
            hint="the files belong to another architecture, or a part of them is missing",
        )


def _renaming(model: Any) -> Callable[[str], str]:
    """How transformers renames what older files call otherwise (GPT-NeoX's ``embed_out``)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, apply_renamings

    mapping = get_model_conversion_mapping(model)
    known = [t for t in mapping if isinstance(t, WeightRenaming)]
    if len(known) < len(mapping):
        raise UnsupportedModelError(
            f"a part of {type(model).__name__} cannot be loaded alone: its files hold tensors "
            "(experts) that are put together on loading",
            hint='use a dense decoder, or job.method = "federated-lora"',
        )
    return lambda key: str(apply_renamings(key, known))
