"""A prefix by hand: its keys and values are put before every text's own, one query at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

Attend = Callable[..., tuple[Tensor, None]]


def prefix_of(table: Tensor, heads: int, blocks: int) -> Tensor:
    """PEFT's layout: [P, blocks * 2 * heads * size] -> [blocks, 2, heads, P, size]."""
    tokens = table.shape[0]
    return table.view(tokens, blocks, 2, heads, -1).permute(1, 2, 3, 0, 4)


def _by_hand(prefix: Tensor, first: int) -> Attend:
    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        """Query [B, H, T, D]; key, value [B, G, T, D]; gives out [B, T, H, D]."""
        number, size = module.layer_idx - first, query.shape[-1]
        scale = kwargs.get("scaling") or size**-0.5
        out = torch.zeros_like(query)
        for row in range(query.shape[0]):
            for head in range(query.shape[1]):
                group = head * key.shape[1] // query.shape[1]
                for at in range(query.shape[2]):
                    keys, values = key[row, group, : at + 1], value[row, group, : at + 1]
                    if number >= 0:
                        keys = torch.cat([prefix[number, 0, group], keys])
                        values = torch.cat([prefix[number, 1, group], values])
                    scores = keys @ query[row, head, at] * scale
                    if cap := kwargs.get("softcap"):
                        scores = torch.tanh(scores / cap) * cap
                    out[row, head, at] = scores.softmax(0) @ values
        return out.transpose(1, 2).contiguous(), None

    return attend


@contextmanager
def by_hand(model: Any, prefix: Tensor, first: int = 0) -> Iterator[None]:
    """Let a plain ``model`` attend to ``prefix`` [blocks, 2, G, P, D] from block ``first`` on."""
    AttentionInterface.register("by-hand", _by_hand(prefix, first))
    before = model.config._attn_implementation
    model.config._attn_implementation = "by-hand"
    try:
        yield
    finally:
        model.config._attn_implementation = before
