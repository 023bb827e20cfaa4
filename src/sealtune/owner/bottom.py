"""The bottom of a model that is cut in two; its result enters the top (``model.cut``).

    bottom = Bottom(load_part(spec, None, cut, "bottom"), cut)
    hidden = bottom(ids, mask)                  # float32 [B, T, D], input of block `cut`

Trust domain: data owner.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sealtune.model.structure import find_blocks


class Bottom:
    """Embedding and first blocks, frozen.

    Args:
        model: from ``load_part(..., "bottom")``.
        cut: number of blocks in it.
    """

    def __init__(self, model: Any, cut: int) -> None:
        self._decoder = getattr(model, model.base_model_prefix)
        self._seen: list[Tensor] = []
        _, blocks = find_blocks(model)
        blocks[cut].register_forward_pre_hook(self._take, with_kwargs=True)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The input of the first block of the top, float [B, T, D]."""
        self._seen.clear()
        with torch.no_grad():
            self._decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return self._seen.pop()

    def _take(self, _block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        self._seen.append(args[0] if args else kwargs["hidden_states"])
