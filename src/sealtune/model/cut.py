"""Where cut activations enter the top of a model; ``owner.bottom`` makes them.

    top = load_part(spec, labels, cut, "top")
    entry = CutEntry(top, cut)
    entry.feed(hidden)
    top(input_ids=anything, attention_mask=mask).logits

Trust domain: server enclave (split); client enclave, whose own blocks make them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sealtune.errors import ModelError
from sealtune.model.structure import find_blocks


class CutEntry:
    """Puts cut activations into a top, whatever its decoder does before the first block.

    Args:
        model: from ``load_part(..., "top")``, with or without PEFT and SPF around it.
        cut: number of the block that they enter.
        dtype: in which they enter; default: that of the block's weights.
    """

    def __init__(self, model: Any, cut: int, dtype: torch.dtype | None = None) -> None:
        self._activations: Tensor | None = None
        _, blocks = find_blocks(model)
        self._dtype = dtype or next(blocks[cut].parameters()).dtype
        blocks[cut].register_forward_pre_hook(self._put, with_kwargs=True)

    def feed(self, activations: Tensor) -> None:
        """Use ``activations`` [B, T, D] in the forward passes from now on."""
        self._activations = activations.to(self._dtype)

    def _put(
        self, _block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        if self._activations is None:
            raise ModelError("the top of a split model was run without cut activations")
        here = args[0] if args else kwargs["hidden_states"]
        if here.shape != self._activations.shape:
            raise ModelError(
                f"cut activations are {tuple(self._activations.shape)}, the batch is "
                f"{tuple(here.shape)}"
            )
        if args:
            return (self._activations, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._activations}
