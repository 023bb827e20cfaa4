"""Load a part of a public decoder and nothing else: no other weights are ever read.

    bottom = load_part(spec, None, cut, "bottom")     # embedding and blocks 0 .. cut-1
    top = load_part(spec, labels, cut, "top")         # blocks cut .. end, final norm, head

What is not there is stood in for by modules without weights, so that every module keeps its name
and its number; an adapter trained on a part fits the whole model.

Trust domain: data owner (bottom), server enclave (top).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sealtune.errors import UnsupportedModelError
from sealtune.job.sections import HEAD
from sealtune.job.spec import ModelSpec
from sealtune.model.files import model_files
from sealtune.model.load import factory_and_config, keep_head_in_float32, quiet, require_head
from sealtune.model.structure import find_blocks
from sealtune.model.weights import Weights, renaming

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
    model = without_weights(factory, config, dtype)
    if spec.task == "classification":
        require_head(model)
        keep_head_in_float32(model)
    _, blocks = find_blocks(model)
    for number, block in enumerate(blocks):
        if (number < cut) != (part == "bottom"):
            blocks[number] = Elsewhere(block)
    embedding = embedding_name(model)
    names = names_in_files(model, embedding)
    if part == "top":
        width = int(model.get_input_embeddings().weight.shape[1])
        model.set_submodule(embedding, NoEmbedding(width, dtype))
    else:
        output = head_name(model)
        if output is None:
            raise UnsupportedModelError(f"{type(model).__name__} has no output matrix of its own")
        model.set_submodule(output, nn.Identity())
    if not meta:
        with quiet(), weights_of(spec, model) as weights:
            fill(model, weights, names, dtype)
    model.requires_grad_(False)
    return model.eval()


def check_weights(spec: ModelSpec) -> None:
    """Hold names and shapes in the weights' headers against the model; no tensor is read.

    Raises:
        ModelError: a tensor is missing, of another shape, or there twice.
    """
    factory, config = factory_and_config(spec.model_copy(update={"task": "causal-lm"}), None)
    model = without_weights(factory, config, torch.float32)
    names = names_in_files(model, embedding_name(model))
    with weights_of(spec, model) as weights:
        for name, tensor in model.state_dict(keep_vars=True).items():
            weights.find(names(name), tuple(tensor.shape))


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


def without_weights(factory: Any, config: Any, dtype: torch.dtype) -> Any:
    """The model with parameters on ``meta`` and buffers (rotary frequencies) computed."""
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    # nothing is drawn that would be thrown away: of memory that is not written to there is none
    with quiet(), no_init_weights(), init_empty_weights(include_buffers=False):
        model = factory.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()  # outside: there, every parameter that is set becomes one of its own
    return model


def head_name(model: Any) -> str | None:
    """Name of the output matrix; a classifier has none."""
    head = model.get_output_embeddings()
    names = (name for name, module in model.named_modules() if module is head)
    return None if head is None else next(names, None)


def weights_of(spec: ModelSpec, model: Any) -> Weights:
    return Weights(model_files(spec), model.base_model_prefix, renaming(model))


def embedding_name(model: Any) -> str:
    return next(str(n) for n, m in model.named_modules() if m is model.get_input_embeddings())


def names_in_files(model: Any, embedding: str) -> Callable[[str], list[str]]:
    """Under which names a file may hold a tensor of ``model``, likeliest first.

    Files of a bare decoder lack the prefix, and matrices that are tied stand under either name.
    """
    prefix = f"{model.base_model_prefix}."
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    pair = {f"{embedding}.weight", f"{head_name(model) or ' '}.weight"} if tied else set()

    def names_in_file(name: str) -> list[str]:
        same = [name, *sorted(pair - {name})] if name in pair else [name]
        return [form for n in same for form in (n, n.removeprefix(prefix), prefix + n)]

    return names_in_file


def fill(
    model: Any,
    weights: Weights,
    names: Callable[[str], list[str]],
    dtype: torch.dtype,
    done: Collection[str] = (),
) -> None:
    """Read every parameter and every persistent buffer of ``model`` that is not ``done``."""
    filled: dict[int, Tensor] = {}  # by the tensor that is replaced: some are tied
    for name, tensor in model.state_dict(keep_vars=True).items():  # persistent buffers, too
        if name in done:
            continue
        if id(tensor) not in filled:
            if name.startswith(f"{HEAD}."):
                value = torch.zeros(tensor.shape)  # fresh: nothing to read, float32 to be tuned
            else:
                value = weights.read(names(name), tuple(tensor.shape))
                value = value.to(dtype) if tensor.is_floating_point() else value
            made = isinstance(tensor, nn.Parameter)
            filled[id(tensor)] = nn.Parameter(value, requires_grad=False) if made else value
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, filled[id(tensor)])
