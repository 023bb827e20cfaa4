"""One forward pass of a model on ``meta`` tensors, watched: what the planners of all methods need.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sealtune.errors import UnsupportedModelError
from sealtune.job.plan import plain_name

TOKENS = 8  # of the watched forward pass; any small number does


@dataclass(frozen=True)
class Call:
    """One call of a frozen linear layer during the watched pass."""

    name: str
    module: nn.Module
    source: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        if isinstance(self.module, nn.Linear):
            return self.module.in_features, self.module.out_features
        # Conv1D keeps its weight transposed
        inner, outer = self.module.get_parameter("weight").shape
        return int(inner), int(outer)


def block_index(name: str, blocks_name: str) -> int:
    """Number of the block that a module lies in, or -1."""
    rest = name.removeprefix(blocks_name + ".")
    head = rest.split(".", 1)[0]
    return int(head) if rest != name and head.isdecimal() else -1


def is_frozen_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose own weights are not trained."""
    own = list(module.parameters(recurse=False))  # an SPF delta below it is no weight of its own
    return isinstance(module, nn.Linear | Conv1D) and not any(p.requires_grad for p in own)


def starts_with_embedding(model: Any, blocks: nn.ModuleList) -> bool:
    """Whether the embedding's output is the first block's input, with nothing in between.

    Where something is (GPT-2 adds positions, Gemma scales), a plain prefix that ends after a block
    could not stand in the embedding's place.
    """
    seen: list[object] = []

    def embedded(_module: nn.Module, _args: object, output: object) -> None:
        seen.append(output)

    def entered(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        seen.append(args[0] if args else kwargs.get("hidden_states"))

    with (
        model.get_input_embeddings().register_forward_hook(embedded),
        blocks[0].register_forward_pre_hook(entered, with_kwargs=True),
    ):
        forward_on_meta(model)
    return len(seen) == 2 and seen[0] is seen[1]


def forward_on_meta(model: nn.Module, rows: int = 1, tokens: int = TOKENS) -> Any:
    """One forward pass on meta tensors; what the model gives out.

    Raises:
        UnsupportedModelError: the model does not run on token ids alone.
    """
    ids = torch.ones((rows, tokens), dtype=torch.long, device="meta")
    # a ready-made 4-d mask: building one would look at values, and meta tensors have none
    mask = torch.zeros((rows, 1, tokens, tokens), device="meta")
    try:
        return model(input_ids=ids, attention_mask=mask, use_cache=False)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"cannot trace {type(model).__name__}: {str(error)[:300]}",
            hint="the slice plan needs a decoder that runs on token ids alone",
        ) from error


def by_source(calls: Sequence[Call]) -> list[list[Call]]:
    """Consecutive calls with the very same input tensor, together."""
    return [list(group) for _, group in groupby(calls, key=lambda call: id(call.source))]


def is_listed(path: str, module: nn.Module, blocks_name: str, prefix: int) -> bool:
    """Whether a module gets a line of its own in the plan: it computes, or a plain block does."""
    name = plain_name(path)
    index = block_index(name, blocks_name)
    if 0 <= index < prefix:
        return name == f"{blocks_name}.{index}"
    if path.endswith(".base_layer"):
        return True
    container = isinstance(module, nn.ModuleDict | nn.ParameterDict | nn.ModuleList | nn.Identity)
    return not container and not any(True for _ in module.children())
