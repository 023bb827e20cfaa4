"""The blocks below the first that is tuned: what they make of a text never changes.

    prefix = FrozenPrefix(model, plan.steady_blocks, compute)
    hidden = prefix(batch)              # input of the first tuned block
    prefix.entry.feed(hidden)           # and from here on, the model is that block and those after

Trust domain: client enclave (federated), data owner (secure aggregation).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sealtune.model.compute import Compute
from sealtune.model.cut import CutEntry
from sealtune.model.partial import Elsewhere, NoEmbedding, embedding_name
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import base_model
from sealtune.model.texts import Batch


class FrozenPrefix:
    """Takes a model's first blocks out of its way, and runs them by themselves.

    Args:
        model: with what is tuned on it, and with its layers where they are computed.
        first: number of the first block that is tuned (``SlicePlan.steady_blocks``).
        compute: where the model is.

    Attributes:
        entry: where their result enters the model.
    """

    def __init__(self, model: Any, first: int, compute: Compute) -> None:
        self._model, self._compute = base_model(model), compute
        _, self._blocks = find_blocks(self._model)
        self._whole = list(self._blocks)
        self._place = embedding_name(self._model)
        self._embedding = self._model.get_input_embeddings()
        width = getattr(self._embedding, "embedding_dim", self._model.config.hidden_size)
        self._bare = compute.place(NoEmbedding(width, compute.dtype))
        self.entry = CutEntry(self._model, first, compute.dtype)
        self._seen: list[Tensor] = []
        away: list[nn.Module] = [Elsewhere(block) for block in self._whole]
        away[first].register_forward_pre_hook(self._take, with_kwargs=True)
        self._lower = self._whole[:first] + away[first:]
        self._upper = away[:first] + self._whole[first:]
        self._put(self._bare, self._upper)

    def __call__(self, batch: Batch) -> Tensor:
        """The input of block ``first``, [B, T, D] on the processor, without a gradient."""
        decoder, trains = getattr(self._model, self._model.base_model_prefix), self._model.training
        here = batch.to(self._compute.device)
        self._seen.clear()
        self._put(self._embedding, self._lower)
        self._model.eval()
        try:
            with torch.no_grad(), self._compute.forward():
                decoder(**here.inputs())
        finally:
            self._put(self._bare, self._upper)
            self._model.train(trains)
        return self._seen.pop().cpu()

    def _put(self, embedding: nn.Module, blocks: list[nn.Module]) -> None:
        self._model.set_submodule(self._place, embedding)
        for number, block in enumerate(blocks):
            self._blocks[number] = block

    def _take(self, _block: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        self._seen.append(args[0] if args else kwargs["hidden_states"])
