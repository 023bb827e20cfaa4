"""Which tokens were in the texts that an update was trained on: a span check on LoRA's A.

    check = SpanCheck(model, tokens)
    scores = check.scores(update)            # float64 [C]; larger: rather in the texts

The gradient of A is a sum of outer products with the layer's inputs, so its rows lie in their span
(DAGER, Petrov et al., NeurIPS 2024, arXiv 2405.15586). Here A's rank is far below the number of
tokens, and AdamW rounds gradients nearly to their signs. So candidates are ranked by how much of
them lies in the rows' span, after whitening by what inputs have in common, over the first tuned
layer of each block; the inputs of later blocks are taken to be those of the token behind another.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from sealtune.model.structure import find_blocks
from sealtune.model.tasks import base_model

_SHRINK = 1.0  # of the mean variance, added to each: AdamW's rounding has no directions
_AT_ONCE = 512  # tokens in a forward pass
_A = ".lora_A."


class SpanCheck:
    """What is known of every candidate before an update is seen.

    Args:
        model: public, tuned with LoRA.
        tokens: the candidates, int64 [C].

    Raises:
        ValueError: no layer of it has LoRA.
    """

    def __init__(self, model: Any, tokens: Tensor) -> None:
        layers = _first_layers(model)
        if not layers:
            raise ValueError("no layer has LoRA, so there is no span to check")
        self._whitened: list[tuple[tuple[str, ...], Tensor, Tensor]] = []
        for names, inputs in zip(layers.values(), _inputs(model, layers, tokens), strict=True):
            mean = inputs.mean(0)
            values, vectors = torch.linalg.eigh((inputs - mean).T @ (inputs - mean) / len(inputs))
            scale = (values.clamp_min(0) + _SHRINK * values.mean()).rsqrt()
            whitener = (vectors * scale) @ vectors.T
            candidates = normalize((inputs - mean) @ whitener, dim=1)
            self._whitened.append((names, whitener, candidates))

    def scores(self, update: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Of each candidate, over all layers, each in units of its deviation."""
        total = 0.0
        for names, whitener, candidates in self._whitened:
            rows = np.concatenate([np.asarray(update[name], np.float64) for name in names])
            span, _ = torch.linalg.qr((torch.from_numpy(rows) @ whitener).T)
            inside = ((candidates @ span) ** 2).sum(1)
            total = total + (inside - inside.mean()) / inside.std().clamp_min(1e-12)
        scores: NDArray[np.float64] = np.asarray(total)
        return scores


def _first_layers(model: Any) -> dict[str, tuple[str, ...]]:
    """In each block the layer with LoRA that runs first -> its A, and that of all that have the
    same input, by their names in an update.
    """
    prefix, _ = find_blocks(base_model(model))
    tuned: dict[str, dict[str, nn.Module]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and f"{prefix}." in name:
            block = name.partition(f"{prefix}.")[2].partition(".")[0]
            tuned.setdefault(block, {})[name] = module
    found, device = {}, torch.zeros(1, 1, dtype=torch.int64)
    for block in sorted(tuned, key=int):
        seen: list[tuple[str, Tensor]] = []
        hooks = [
            module.register_forward_pre_hook(
                lambda _m, given, name=name, seen=seen: seen.append((name, given[0]))
            )
            for name, module in tuned[block].items()
        ]
        with torch.no_grad():
            base_model(model).base_model(input_ids=device, use_cache=False)
        for hook in hooks:
            hook.remove()
        first, given = seen[0]
        same = [name for name, other in seen if other is given]
        found[first] = tuple(f"{name}{_A}weight" for name in same)
    return found


def _inputs(model: Any, layers: Mapping[str, Any], tokens: Tensor) -> list[Tensor]:
    """Of each layer, float64 [C, K]: each token behind the candidate in the middle."""
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_pre_hook(
            lambda _m, given, to=to: to.append(given[0][:, 1].detach().double())
        )
        for name, to in kept.items()
    ]
    model.eval()
    with torch.no_grad():
        for part in torch.split(tokens, _AT_ONCE):
            before = torch.full_like(part, int(tokens[len(tokens) // 2]))
            pair = torch.stack([before, part], dim=1)
            base_model(model).base_model(input_ids=pair, use_cache=False)
    for hook in hooks:
        hook.remove()
    return [torch.cat(kept[name]) for name in layers]
