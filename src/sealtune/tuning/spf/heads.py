"""Where the heads of a Hugging Face attention are: rows and columns of its projections.

Known arrangements, recognised by the projections' names and checked by their shapes:

    q_proj, k_proj, v_proj, o_proj (or out_proj)   Llama, Mistral, Qwen2, Qwen3, GLM4, Gemma, ...
    qkv_proj, o_proj                               Phi-3: all queries, all keys, all values
    c_attn, c_proj                                 GPT-2: the same, weights transposed
    query_key_value, dense                         GPT-NeoX: query, key and value head by head

Anything else is refused with the name of the module: guessing would tune half a head.

Trust domain: server enclave; structure only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.plan import plain_name
from sealtune.model.structure import find_blocks

Projection: TypeAlias = nn.Linear | Conv1D
Share = Literal["query", "key", "value", "dense"]  # what SPF has a share of the heads of
Role = Literal["query", "key", "value", "key-value", "qkv", "dense"]


@dataclass(frozen=True)
class Part:
    """What the heads of a group own of one projection.

    Attributes:
        share: which of the four it is.
        projection: the linear layer.
        axis: 0: rows of ``W [N, K]`` (outputs); 1: columns (inputs).
        index: int64 [heads, width], the rows or columns of each head.
    """

    share: Share
    projection: Projection
    axis: int
    index: Tensor


@dataclass(frozen=True)
class HeadGroup:
    """Heads of one block that are ranked together.

    Attributes:
        block: number of the block.
        attention: name of the attention module in the plain model.
        role: what is chosen: ``qkv`` where every head has its own key and value, otherwise
            ``query`` and ``key-value`` apart; ``dense`` for the output projection. Single
            projections where their shares differ.
        heads: how many there are.
        parts: what they own.
        output: the columns of the output projection that read the block's (query) heads.
    """

    block: int
    attention: str
    role: Role
    heads: int
    parts: tuple[Part, ...]
    output: Part


def weight_of(projection: Projection) -> Tensor:
    """The weight as ``[N, K]``, a view (Conv1D keeps it transposed)."""
    weight: Tensor = projection.weight.detach()
    return weight.t() if isinstance(projection, Conv1D) else weight


def apart(group: HeadGroup, shares: Mapping[Share, float]) -> list[HeadGroup]:
    """The groups that are ranked by themselves: all of ``group``, or where shares differ, parts."""
    if len({shares[part.share] for part in group.parts}) == 1:
        return [group]
    return [replace(group, role=part.share, parts=(part,)) for part in group.parts]


def find_heads(model: Any, layers: Sequence[int] | None = None) -> list[HeadGroup]:
    """Every group of heads of a decoder, block by block.

    Args:
        model: a Hugging Face decoder, with or without PEFT around it; may be on ``meta``.
        layers: numbers of the blocks looked at; None: all that are there.

    Raises:
        UnsupportedModelError: an attention of another arrangement; the module is named.
        ModelError: there is no such block.
    """
    blocks_name, blocks = find_blocks(model)
    wanted = range(len(blocks)) if layers is None else sorted(set(layers))
    if wanted and max(wanted) >= len(blocks):
        raise ModelError(
            f"there is no block {max(wanted)}: the model has blocks 0 to {len(blocks) - 1}"
        )
    groups: list[HeadGroup] = []
    for number in wanted:
        block = blocks[number]
        if not any(True for _ in block.parameters()):
            continue  # this block runs elsewhere
        prefix = plain_name(f"{blocks_name}.{number}")
        groups += _of_block(block, number, prefix, model.config)
    return groups


def _of_block(block: nn.Module, number: int, prefix: str, config: Any) -> list[HeadGroup]:
    linear = {
        plain_name(name): module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and ".lora_" not in name
    }
    by_end = {name.split(".")[-1]: name for name in linear if _in_attention(name)}
    for inward, outward in _ARRANGEMENTS:
        output = next((end for end in outward if end in by_end), None)
        if output is not None and all(end in by_end for end in inward):
            attention = f"{prefix}.{by_end[output].rpartition('.')[0]}"
            projections = [linear[by_end[end]] for end in (*inward, output)]
            if inward == ("c_attn",) and not isinstance(projections[0], Conv1D):
                break  # GPTBigCode arranges heads in another way under this name
            return _groups(projections, inward, number, attention, config)
    layers = ", ".join(sorted(linear)) or "no linear layer"
    raise UnsupportedModelError(
        f"SPF does not know how {prefix} ({type(block).__name__}) arranges its attention heads; "
        f"it has {layers}",
        hint="known: " + "; ".join("/".join((*i, o[0])) for i, o in _ARRANGEMENTS),
    )


_ARRANGEMENTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("q_proj", "k_proj", "v_proj"), ("o_proj", "out_proj")),
    (("qkv_proj",), ("o_proj",)),
    (("c_attn",), ("c_proj",)),
    (("query_key_value",), ("dense",)),
)


_QKV: tuple[Share, Share, Share] = ("query", "key", "value")


def _in_attention(name: str) -> bool:
    """Whether a layer's own parent is an attention: GPT-2's MLP has a ``c_proj``, too."""
    return "att" in (name.split(".")[-2] if "." in name else "")


def _groups(
    projections: Sequence[Projection],
    inward: tuple[str, ...],
    number: int,
    attention: str,
    config: Any,
) -> list[HeadGroup]:
    heads = int(config.num_attention_heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    output = projections[-1]
    inner = weight_of(output).shape[1]
    width = inner // heads
    rows = sum(weight_of(p).shape[0] for p in projections[:-1])
    if width * heads != inner or rows != (heads + 2 * shared) * width or heads % shared:
        raise UnsupportedModelError(
            f"the projections of {attention} have {rows} rows and {inner} columns, which do not "
            f"make {heads} query and {shared} key/value heads",
            hint="SPF tunes whole heads, so it must know where each one is",
        )
    query, key, value = _rows(projections[:-1], inward, heads, shared, width)
    columns = Part("dense", output, 1, _runs(heads, width, 0))

    def group(role: Role, count: int, *parts: Part) -> HeadGroup:
        return HeadGroup(number, attention, role, count, parts, columns)

    dense = group("dense", heads, columns)
    if shared == heads:
        return [group("qkv", heads, query, key, value), dense]
    return [group("query", heads, query), group("key-value", shared, key, value), dense]


def _rows(
    projections: Sequence[Projection], inward: tuple[str, ...], heads: int, shared: int, width: int
) -> tuple[Part, Part, Part]:
    """The rows of queries, keys and values."""
    owners, starts = projections, [0, 0, 0]
    if len(projections) == 1:
        owners, starts = [*projections] * 3, [0, heads * width, (heads + shared) * width]
    rows = [_runs(n, width, s) for n, s in zip((heads, shared, shared), starts, strict=True)]
    if inward == ("query_key_value",):
        rows = list(_runs(heads, 3 * width, 0).chunk(3, dim=1))
    query, key, value = (Part(n, p, 0, i) for n, p, i in zip(_QKV, owners, rows, strict=True))
    return query, key, value


def _runs(count: int, width: int, start: int) -> Tensor:
    """[count, width]: consecutive numbers from ``start``."""
    return torch.arange(start, start + count * width, device="cpu").reshape(count, width)
