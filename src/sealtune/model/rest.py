"""A public decoder without the weights of layers that compute elsewhere.

    rest = load_rest(spec, labels, plan)                        # what stays in a site's enclave
    with load_streamed(spec, labels, layers) as whole: ...      # layers have weights while they run

Trust domain: client enclave; data owner (secure aggregation).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sealtune.job.plan import SlicePlan
from sealtune.job.spec import ModelSpec
from sealtune.model.fused import fuse_feed_forward
from sealtune.model.load import factory_and_config, keep_head_in_float32, quiet, require_head
from sealtune.model.partial import (
    Elsewhere,
    NoEmbedding,
    embedding_name,
    fill,
    head_name,
    names_in_files,
    weights_of,
    without_weights,
)
from sealtune.model.stored import StoredEmbedding, StoredHead
from sealtune.model.structure import find_blocks
from sealtune.model.weights import Weights

_HALF = (torch.bfloat16, torch.float16)  # what is kept as it is in the file


def load_rest(
    spec: ModelSpec,
    num_labels: int | None,
    plan: SlicePlan,
    *,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The model without what ``plan`` has computed elsewhere, in evaluation mode, all frozen.

    Layers of the plan's groups keep their place and their bias until other modules are put there;
    where none is, NaN comes of whatever they are given. Blocks of its plain prefix are missing
    whole, and the embedding with them. Embedding and output matrix are kept in the file's own type
    (``model.stored``), and as one where they are tied.

    Args:
        spec: where the model is, and its task.
        num_labels: number of classes; used for the classification head only.
        plan: which layers these are.
        dtype: in which it computes; a fresh head is float32.

    Returns:
        The model class of ``load_model``. A fresh classification head holds zeros.

    Raises:
        ModelError: files are missing, damaged, or lack tensors.
        UnsupportedModelError: not a decoder, or its files do not hold its tensors one by one.
    """
    elsewhere = [member for group in plan.groups for member in group.members]
    model = _load_without(spec, num_labels, elsewhere, plan.prefix_blocks, dtype)
    fuse_feed_forward(model)
    return model


@contextlib.contextmanager
def load_streamed(
    spec: ModelSpec, num_labels: int | None, layers: Collection[str]
) -> Iterator[Any]:
    """The whole model, in which ``layers`` hold their weights only while they are called.

    Each call reads them from the file anew, in float32. It serves a few texts, without gradients.

    Args:
        layers: dotted names of linear layers.

    Raises:
        ModelError, UnsupportedModelError: see ``load_rest``.
    """
    model = _load_without(spec, num_labels, layers, 0, torch.float32)
    names = names_in_files(model, embedding_name(model))

    def fetch(name: str) -> Callable[[Any, object], None]:
        def hook(layer: Any, _args: object) -> None:
            weight = weights.read(names(f"{name}.weight"), tuple(layer.weight.shape))
            layer.weight = nn.Parameter(weight.float(), requires_grad=False)

        return hook

    def drop(layer: Any, _args: object, _output: object) -> None:
        layer.weight = _nowhere(layer.weight)

    with weights_of(spec, model) as weights, contextlib.ExitStack() as hooks:
        for name in layers:
            layer = model.get_submodule(name)
            hooks.enter_context(layer.register_forward_pre_hook(fetch(name)))
            hooks.enter_context(layer.register_forward_hook(drop))
        yield model


def _load_without(
    spec: ModelSpec,
    num_labels: int | None,
    elsewhere: Collection[str],
    prefix: int,
    dtype: torch.dtype,
) -> Any:
    factory, config = factory_and_config(spec, num_labels)
    model = without_weights(factory, config, dtype)
    if spec.task == "classification":
        require_head(model)
        keep_head_in_float32(model)
    embedding = embedding_name(model)
    names = names_in_files(model, embedding)
    _, blocks = find_blocks(model)
    for number in range(prefix):
        blocks[number] = Elsewhere(blocks[number])
    for name in elsewhere:
        layer = model.get_submodule(name)
        layer.weight = _nowhere(layer.weight)
    with quiet(), weights_of(spec, model) as weights:
        _part_what_differs(model, weights, names)
        read = _store(model, weights, names, dtype, bare=prefix > 0)
        fill(model, weights, names, dtype, {*read, *(f"{n}.weight" for n in elsewhere)})
    model.requires_grad_(False)
    return model.eval()


def _nowhere(weight: Tensor) -> nn.Parameter:
    """What stands for a weight that is not here: its shape, and one NaN."""
    one = torch.full((), torch.nan, dtype=weight.dtype)
    return nn.Parameter(one.expand(weight.shape), requires_grad=False)


def _part_what_differs(model: Any, weights: Weights, names: Callable[[str], list[str]]) -> None:
    """Matrices that the configuration ties are two where the files hold two, as transformers
    has it."""
    table, output = model.get_input_embeddings(), head_name(model)
    head = model.get_submodule(output) if output else None
    if head is None or head.weight is not table.weight:
        return
    shape = tuple(table.weight.shape)
    forms = [names(f"{name}.weight") for name in (embedding_name(model), output)]
    if weights.find(forms[0], shape) == weights.find(forms[1], shape):
        return  # there is one
    first, second = (weights.read(form, shape) for form in forms)
    if first.dtype != second.dtype or not torch.equal(first, second):
        head.weight = nn.Parameter(torch.empty_like(table.weight), requires_grad=False)


def _store(
    model: Any,
    weights: Weights,
    names: Callable[[str], list[str]],
    dtype: torch.dtype,
    *,
    bare: bool,
) -> list[str]:
    """Put stored modules where embedding and head are; the names of the matrices that are done.

    Families that do more than look up and multiply (an embedding that scales) keep theirs.

    Args:
        bare: the embedding is not needed.
    """
    embedding, output = embedding_name(model), head_name(model)
    table = model.get_submodule(embedding)
    head = model.get_submodule(output) if output else None
    tied = head is not None and head.weight is table.weight
    stored, done = None, []

    def matrix(name: str, layer: Any) -> Tensor:
        done.append(f"{name}.weight")
        weight = weights.read(names(f"{name}.weight"), tuple(layer.weight.shape))
        halved = weight.dtype in _HALF and torch.promote_types(weight.dtype, dtype) == dtype
        return weight if halved else weight.to(dtype)

    if bare:
        model.set_submodule(embedding, NoEmbedding(int(table.weight.shape[1]), dtype))
    elif type(table) is nn.Embedding and table.max_norm is None:
        stored = StoredEmbedding(matrix(embedding, table), dtype)
        model.set_submodule(embedding, stored)
    elif tied:
        return []
    if output and type(head) is nn.Linear:
        shared = stored if tied else None
        own = None if shared else matrix(output, head)
        model.set_submodule(output, StoredHead(own, head.bias, shared))
        done.append(f"{output}.matrix")
    return done


def read_layers(
    spec: ModelSpec, layers: Collection[str]
) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, module (on ``meta``) and float32 weight of each of ``layers``, one after the other.

    Raises:
        ModelError: files are missing or damaged.
        UnsupportedModelError: the files do not hold the model's tensors one by one.
    """
    factory, config = factory_and_config(spec.model_copy(update={"task": "causal-lm"}), None)
    model = without_weights(factory, config, torch.float32)
    names = names_in_files(model, embedding_name(model))
    with weights_of(spec, model) as weights:
        for name in layers:
            module = model.get_submodule(name)
            shape = tuple(module.get_parameter("weight").shape)
            yield name, module, weights.read(names(f"{name}.weight"), shape).float()
