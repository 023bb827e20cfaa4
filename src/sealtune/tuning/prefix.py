"""Keys and values of virtual tokens before every text: P-tuning v2 inside a model's forward pass.

    prefix = Prefix(config, first=0)      # PEFT's encoder, for the blocks from ``first`` on
    prefix.put_on(model)
    model(input_ids=ids, attention_mask=mask)

The model gets them as the cache of a text that came before, as PEFT does it: no token is added, so
no linear layer has more rows. Where every block has a prefix, positions count the virtual tokens,
as PEFT's do. Where only the blocks behind a cut have one, the others see the text alone, and
positions count its tokens only, as they did at the sites.

Source: Liu et al., P-Tuning v2, arXiv 2110.07602; Li and Liang, Prefix-Tuning, arXiv 2101.00190.

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from peft import PrefixTuningConfig
from peft.tuners.prefix_tuning import PrefixEncoder
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from sealtune.errors import ModelError
from sealtune.model.partial import Elsewhere
from sealtune.model.structure import find_blocks


class Prefix(PrefixEncoder):  # type: ignore[misc]
    """The encoder and its place in a model.

    Args:
        config: PEFT's, with all sizes.
        first: number of the first block with a prefix; ``config.num_layers`` follow.
    """

    def __init__(self, config: PrefixTuningConfig, first: int) -> None:
        super().__init__(config)
        self.first = first
        self.tokens = int(config.num_virtual_tokens)
        heads, width = int(config.num_attention_heads), int(config.token_dim)
        self._shape = (self.tokens, int(config.num_layers), 2, heads, width // heads)
        self.register_buffer("numbers", torch.arange(self.tokens), persistent=False)

    def table(self) -> Tensor:
        """What a PEFT file holds: float [tokens, blocks * 2 * heads * size]."""
        result: Tensor = self(self.numbers)
        return result

    def trained(self) -> tuple[int, int]:
        """How many numbers are trained for each block alone, and for all of them together."""
        last = self.transform[-1] if self.prefix_projection else self.embedding
        every, apart = (sum(p.numel() for p in m.parameters()) for m in (self, last))
        return apart // self._shape[1], every - apart

    def put_on(self, model: Any) -> None:
        """Make it a part of ``model``, in place."""
        # follows the model's conversions; of its parameters, masked layers may leave it none
        self.register_buffer("like", torch.empty(0, dtype=model.dtype), persistent=False)
        model.prompt_encoder = self
        model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        for block in find_blocks(model)[1][: self.first]:
            if not isinstance(block, Elsewhere):
                block.register_forward_pre_hook(self._before_bare_block, with_kwargs=True)

    def _before_model(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the model the prefix as its cache, and a mask in which every token sees it."""
        if len(args) > 1:
            raise ModelError(
                "a model with a prefix was called with more than one argument without a name",
                hint="write attention_mask=... and so on",
            )
        given = (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        rows, length = next(tensor for tensor in given if tensor is not None).shape[:2]
        cache = kwargs.get("past_key_values")
        if cache is None or kwargs.get("use_cache") is False:  # what a caller kept is of no use
            cache = DynamicCache()
        seen = cache.get_seq_length()
        if not seen:
            self._fill(cache, rows, self.like.dtype)
        changed = {"past_key_values": cache}
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask is not None:  # [B, T], or ready-made [B, 1, T, T]: 0 is seen there, or True
            seen_by_all = mask.dim() == 2 or mask.dtype == torch.bool
            shape = (*mask.shape[:-1], self.tokens)
            before = mask.new_full(shape, 1 if seen_by_all else 0)
            changed["attention_mask"] = torch.cat([before, mask], dim=-1)
        if not self.first:
            if positions is not None:
                changed["position_ids"] = positions + self.tokens
        elif positions is None:
            start = max(0, seen - self.tokens)
            numbers = torch.arange(start, start + length, device=self.numbers.device)
            changed["position_ids"] = numbers[None]
        return args, kwargs | changed

    def _fill(self, cache: Cache, rows: int, dtype: torch.dtype) -> None:
        pairs = self.table().to(dtype).view(self._shape).permute(1, 2, 3, 0, 4)  # [L, 2, H, P, D]
        for number in range(self.first + len(pairs)):
            pair = pairs[max(0, number - self.first)]
            if number < self.first:  # room for it: `_before_bare_block` masks it off
                pair = torch.zeros_like(pair)
            keys, values = pair.unsqueeze(1).expand(-1, rows, -1, -1, -1)  # each [B, H, P, D]
            cache.update(keys, values, number)

    def _before_bare_block(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Mask the prefix off where a block has none."""
        bound = inspect.signature(block.forward).bind(*args, **kwargs)
        mask = bound.arguments.get("attention_mask")
        if mask is None:  # a single token, which sees all
            cache = bound.arguments["past_key_values"]
            seen = cache.get_seq_length() + 1
            mask = torch.ones(1, 1, 1, seen, dtype=torch.bool, device=self.numbers.device)
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        before = torch.full_like(mask[..., : self.tokens], hidden)
        bound.arguments["attention_mask"] = torch.cat([before, mask[..., self.tokens :]], dim=-1)
        return bound.args, bound.kwargs
