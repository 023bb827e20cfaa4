"""Feed-forward layers that keep less, against transformers' own, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sealtune.model.fused import fuse_feed_forward
from sealtune.model.load import load_model
from tests.model.families import FAMILIES, make_family
from tests.model.test_load import spec

KNOWN = {"llama", "llama-tied", "mistral", "qwen2", "qwen3"}
IDS = torch.arange(3, 21).view(2, 9)


@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradients_are_the_same(tmp_path: Path, name: str) -> None:
    where = spec(make_family(name, tmp_path / "model"), "causal-lm")
    own, fused = load_model(where, None).double(), load_model(where, None).double()
    count = fuse_feed_forward(fused)
    assert count == (own.config.num_hidden_layers if name in KNOWN else 0)
    if not count:
        return
    losses, gradients = [], []
    for model in (own, fused):
        model.requires_grad_(True)
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        losses.append(float(loss.detach()))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for mine, theirs in zip(*gradients, strict=True):
        assert float((mine - theirs).norm()) <= 1e-11 * float(theirs.norm()) + 1e-14


def test_one_wide_tensor_less_is_kept(tmp_path: Path) -> None:
    where = spec(make_family("llama", tmp_path / "model"), "causal-lm")
    wide = load_model(where, None).config.intermediate_size
    counts = []
    for fuse in (False, True):
        model = load_model(where, None)
        model.get_input_embeddings().requires_grad_(True)
        if fuse:
            fuse_feed_forward(model)
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            if tensor.shape[-1] == wide:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=IDS, use_cache=False)
        counts.append(sum(tensor.dim() == 3 for tensor in kept.values()))
    blocks = model.config.num_hidden_layers
    assert counts == [3 * blocks, 2 * blocks]
