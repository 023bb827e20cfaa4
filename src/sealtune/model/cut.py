"""Cut a decoder in two: what runs at the data owner, and where its result enters the top.

    bottom = Bottom(load_part(spec, None, cut, "bottom"), cut)
    hidden = bottom(ids, mask)                  # float32 [B, T, D], input of block `cut`

    top = load_part(spec, labels, cut, "top")
    entry = CutEntry(top, cut)
    entry.feed(hidden)
    top(input_ids=anything, attention_mask=mask).logits

Trust domain: data owner (bottom), server enclave (top).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sealtune.errors import ConfigError, ModelError, Problem
from sealtune.model.structure import find_blocks


def cut_at(cut: float, blocks: int) -> int:
    """Blocks at the client, of ``blocks``.

    Args:
        cut: a number of blocks (int), or the share of them (float between 0 and 1).
        blocks: of the whole model.

    Raises:
        ConfigError: nothing would be left for one side.
    """
    number = cut if isinstance(cut, int) else max(1, round(cut * blocks))
    if not 1 <= number < blocks:
        raise ConfigError(
            "the job",
            [
                Problem(
                    "split.cut",
                    f"is {cut}, but the model has {blocks} blocks: it should be a whole number "
                    f"from 1 to {blocks - 1}, or a share of the blocks such as 0.5",
                )
            ],
        )
    return int(number)


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


class CutEntry:
    """Puts cut activations into a top, whatever its decoder does before the first block.

    Args:
        model: from ``load_part(..., "top")``, with or without PEFT and SPF around it.
        cut: number of the block that they enter.
    """

    def __init__(self, model: Any, cut: int) -> None:
        self._activations: Tensor | None = None
        _, blocks = find_blocks(model)
        self._dtype = next(blocks[cut].parameters()).dtype
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
