"""SPF's slice written into its weight, against a product of its own beside the frozen one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sealtune.errors import ModelError
from sealtune.job.sections import TuningSpec
from sealtune.model.load import load_model
from sealtune.model.trainable import own_writes
from sealtune.model.training import local_round
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.spf import SPFConfig, apply_spf, merge_spf
from sealtune.tuning.spf.layer import SparseDelta, train_delta, write_delta
from tests.model.spf.decoders import ARRANGEMENTS, batch, logits_of, loss_of, make
from tests.model.spf.test_equality import close, deltas, steps, with_lora
from tests.model.test_load import spec as model_spec
from tests.model.test_tasks import task_of
from tests.model.test_training import SPEC
from tests.model.tiny import LABELS, make_texts

SOME = SPFConfig(qkv=0.375, dense=0.25, select="random", seed=3)
APART = SPFConfig(query=0, key=0.25, value=1, dense=0.25, select="random", seed=3)


def in_two_products(model: nn.Module) -> nn.Module:
    """The oracle: ``W x`` of the frozen weight, and the delta's product added to it."""

    def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        spf = module.spf
        if spf.axis == 0:
            return output.index_add(-1, spf.index, functional.linear(inputs[0], spf.delta))
        return output + functional.linear(inputs[0][..., spf.index], spf.delta)

    for layer in list(model.modules()):
        if isinstance(getattr(layer, "spf", None), SparseDelta):
            for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
                for key in [k for k, hook in hooks.items() if hook in (write_delta, train_delta)]:
                    del hooks[key]
            layer.register_forward_hook(add)
    return model


@pytest.mark.parametrize("lora", [False, True], ids=["spf", "spf-and-lora"])
@pytest.mark.parametrize("config", [SOME, APART], ids=["together", "apart"])
@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.usefixtures("float64")
def test_steps_are_those_of_two_products(name: str, config: SPFConfig, lora: bool) -> None:
    one = apply_spf(with_lora(name) if lora else make(name), config)
    two = in_two_products(apply_spf(with_lora(name) if lora else make(name), config))
    for model in (one, two):
        for i in range(4):  # plain descent, which does not enlarge what rounds
            model.zero_grad()
            loss_of(model, batch(i)).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.sub_(0.1 * parameter.grad)
    theirs = dict(two.named_parameters())
    for key, parameter in one.named_parameters():
        if parameter.requires_grad:
            assert close(parameter, theirs[key], 1e-11), key
            assert parameter.any()
    assert close(logits_of(one), logits_of(two))


def test_a_layer_computes_one_product() -> None:
    """Counted, where nothing is timed: matrix products of a forward and of a backward pass."""
    counts = []
    for form in (lambda model: model, in_two_products):
        model = form(apply_spf(make("llama"), SOME))
        jumbled = next(iter(deltas(model).values())).delta
        with torch.no_grad():
            jumbled.add_(0.1)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            loss_of(model).backward()
        events = {event.key: event.count for event in profile.key_averages()}
        counts.append(sum(events.get(key, 0) for key in ("aten::mm", "aten::addmm", "aten::bmm")))
    layers = len(deltas(apply_spf(make("llama"), SOME)))
    # forwards the delta's product, and backwards what it gives the layer's input, of which the
    # first block's q, k and v have none
    assert counts[1] - counts[0] == layers + layers - 3


def test_a_weight_holds_the_delta_after_every_change() -> None:
    model = apply_spf(make("llama"), SOME)
    path, spf = next(iter(deltas(model).items()))
    layer = model.get_submodule(path.removesuffix(".spf"))
    first = layer.weight.detach().clone()
    for change in (
        lambda: steps(model, 1),
        lambda: spf.delta.detach().copy_(torch.full_like(spf.delta, 0.5)),
        lambda: torch.optim.SGD([spf.delta], lr=1.0, foreach=True).step(),
        lambda: spf.delta.detach().zero_(),
    ):
        change()
        logits_of(model)
        expected = first.clone()
        expected[spf.index] += spf.delta.detach()
        assert torch.equal(layer.weight, expected)
    writes = own_writes(layer.weight)
    logits_of(model)
    assert own_writes(layer.weight) == writes  # nothing has changed


def test_a_copy_goes_its_own_way() -> None:
    model = apply_spf(make("llama"), SOME)
    steps(model, 2)
    other = copy.deepcopy(model)
    live = logits_of(model)
    assert torch.equal(logits_of(other), live)
    for _ in range(8):  # among them as many changes as the first has seen
        with torch.no_grad():
            for spf in deltas(other).values():
                spf.delta.mul_(1.5)
        assert torch.equal(logits_of(other), logits_of(merge_spf(copy.deepcopy(other))))
    assert torch.equal(logits_of(model), live)


def trained(base: Path, spoil: Any = None) -> Any:
    """A round of a model with LoRA and SPF; ``spoil`` is done to it at every step."""
    tuning = TuningSpec.model_validate({"lora": {"rank": 2}, "spf": {"qkv": 0.5}})
    model = apply_tuning(load_model(model_spec(base), len(LABELS)), tuning, "classification", 7)
    task = task_of(base)
    return local_round(
        model, task, task.encode(make_texts(40, 3)), SPEC, seed=7, round=1, site="a",
        on_step=lambda _: spoil and spoil(model),
    )  # fmt: skip


def test_frozen_weights_are_watched_beside_the_slice(llama: Path) -> None:
    result = trained(llama)
    assert result.frozen_unchanged
    assert result.trained_moved


@pytest.mark.parametrize("name", ["q_proj", "v_proj"])
def test_whoever_else_writes_into_a_weight_is_noticed(llama: Path, name: str) -> None:
    """Also into one that SPF writes to, in rows of its own or of others."""

    def spoil(model: Any) -> None:
        weights = [p for n, p in model.named_parameters() if name in n and n.endswith("er.weight")]
        with torch.no_grad():
            weights[0][-1].add_(1e-3)

    with pytest.raises(ModelError, match=f"frozen tensor .*{name}.* was changed by training"):
        trained(llama, spoil)
