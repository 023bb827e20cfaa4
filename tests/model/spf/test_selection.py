"""Which heads are chosen, against slow oracles that slice weights by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError
from torch import Tensor, nn

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.model.load import quiet
from sealtune.tuning.spf import SPFConfig, apply_spf, chosen_heads
from sealtune.tuning.spf.config import count_of
from sealtune.tuning.spf.heads import find_heads
from sealtune.tuning.spf.layer import SparseDelta
from sealtune.tuning.spf.ranking import _activation, choose, groups_of
from tests.model.spf.decoders import (
    ARRANGEMENTS,
    HEADS,
    SHARED,
    WIDTH,
    attention,
    batch,
    logits_of,
    loss_of,
    make,
    output_projection,
    owned,
)

SELECTORS = ("l1-largest", "l1-smallest", "random", "gradient", "activation", "fisher")
Scores = dict[tuple[int, str], list[float]]  # (block, role) -> a score for each head


def selected(name: str, model: Any, **config: Any) -> dict[tuple[int, str], tuple[int, ...]]:
    """(Block, role) -> what ``apply_spf`` chooses."""
    apply_spf(model, SPFConfig(**config), calibrate=lambda: loss_of(model))
    names = dict(model.named_modules())
    blocks = [attention(name, model, b) for b in range(model.config.num_hidden_layers)]
    return {
        (blocks.index(names[path]), role): heads
        for path, roles in chosen_heads(model).items()
        for role, heads in roles.items()
    }


def score_heads(name: str, model: Any, measure: Callable[[nn.Parameter], Tensor]) -> Scores:
    """Sum of magnitudes of ``measure(weight)`` over what each head owns, head by head."""
    return {
        (block, role): [
            sum(float(measure(w).detach()[where].double().abs().sum()) for w, where in slices)
            for slices in by_head
        ]
        for block in range(model.config.num_hidden_layers)
        for role, by_head in owned(name, model, block).items()
    }


def best(scores: Sequence[float], count: int, *, largest: bool = True) -> tuple[int, ...]:
    """The heads with the highest (or lowest) scores, which must be clear."""
    order = sorted(range(len(scores)), key=lambda head: scores[head], reverse=largest)
    ranked = [scores[head] for head in order]
    assert all(abs(a - b) > 1e-5 * abs(a) for a, b in pairwise(ranked))
    return tuple(sorted(order[:count]))


def in_a_group(role: str) -> int:
    return SHARED if role == "key-value" else HEADS


@pytest.mark.parametrize(
    ("share", "of_eight", "of_four"),
    [
        (0, 0, 0), (0.001, 1, 1), (0.125, 1, 1), (0.25, 2, 1), (0.5, 4, 2), (0.625, 5, 3), (1, 8, 4)
    ],
)  # fmt: skip
def test_shares_stand_for_whole_heads_and_at_least_one(
    share: float, of_eight: int, of_four: int
) -> None:
    assert (count_of(share, 8), count_of(share, 4)) == (of_eight, of_four)
    other = 0.5 if share == 0 else share  # nothing at all cannot be asked for
    found = selected("llama", make("llama"), qkv=share, dense=other)
    assert {role: len(heads) for (_, role), heads in found.items()} == {
        "query": of_eight, "key-value": of_four, "dense": count_of(other, 8),
    }  # fmt: skip
    model = make("llama")
    found = selected("llama", model, qkv=other, dense=share)
    assert {len(heads) for (_, role), heads in found.items() if role == "dense"} == {of_eight}
    tuned = [n for n, m in model.named_modules() if isinstance(m, SparseDelta) and "o_proj" in n]
    assert len(tuned) == (2 if share else 0)


def test_nothing_to_tune_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be tuned"):
        SPFConfig(qkv=0, dense=0)


@pytest.mark.parametrize("share", [0.125, 0.625])
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_l1_ranks_heads_by_their_own_weights(name: str, share: float) -> None:
    scores = score_heads(name, make(name), lambda weight: weight)
    for select, largest in (("l1-largest", True), ("l1-smallest", False)):
        found = selected(name, make(name), qkv=share, dense=share, select=select)
        assert found == {
            (block, role): best(each, count_of(share, in_a_group(role)), largest=largest)
            for (block, role), each in scores.items()
        }


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_smallest_is_the_reverse_of_largest(name: str) -> None:
    large = selected(name, make(name), qkv=0.5, dense=0.5)
    small = selected(name, make(name), qkv=0.5, dense=0.5, select="l1-smallest")
    for (block, role), heads in large.items():
        assert not set(heads) & set(small[block, role])
        assert len(heads) + len(small[block, role]) == in_a_group(role)


def two_batches(model: Any) -> Tensor:
    """The loss on two batches, the second one counting more."""
    return loss_of(model, batch(1)) + 3 * loss_of(model, batch(2))


def check_choice(name: str, select: Any, scores: Scores) -> None:
    """``select`` chooses the heads with the highest ``scores`` on ``two_batches``."""
    model = make(name).requires_grad_(False)
    groups = find_heads(model)
    assert {(g.block, g.role) for g in groups} == scores.keys()
    for share in (0.125, 0.375, 0.625):
        config = SPFConfig(qkv=share, dense=share, select=select)
        found = choose(groups, config, lambda: two_batches(model))
        for group, heads in zip(groups, found, strict=True):
            count = count_of(share, in_a_group(group.role))
            assert heads == best(scores[group.block, group.role], count), (group.block, group.role)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_gradient_ranks_heads_by_the_whole_models_gradient(name: str) -> None:
    reference = make(name)
    two_batches(reference).backward()

    def gradient(weight: nn.Parameter) -> Tensor:
        assert weight.grad is not None
        return weight.grad

    check_choice(name, "gradient", score_heads(name, reference, gradient))


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_fisher_ranks_heads_by_the_squares_of_each_batchs_gradient(name: str) -> None:
    reference = make(name)
    squares: dict[nn.Parameter, Tensor] = {}
    for seed in (1, 2):
        reference.zero_grad()
        loss_of(reference, batch(seed)).backward()
        for weight in reference.parameters():
            if weight.grad is not None:
                squares[weight] = squares.get(weight, 0) + weight.grad.double() ** 2
    model = make(name).requires_grad_(False)
    config = SPFConfig(qkv=0.375, dense=0.375, select="fisher")
    found = choose(
        groups_of(model, config), config, lambda: (loss_of(model, batch(s)) for s in (1, 2))
    )
    scores = score_heads(name, reference, lambda weight: squares[weight])
    for group, heads in zip(groups_of(model, config), found, strict=True):
        count = count_of(0.375, in_a_group(group.role))
        assert heads == best(scores[group.block, group.role], count)


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_projections_with_shares_of_their_own_are_chosen_apart(name: str) -> None:
    model = make(name)
    found = selected(name, model, query=0, key=0.25, value=1, dense=0.25)
    shared = HEADS if name in ("gpt2", "neox") else SHARED
    for block in range(2):
        mine = {role: heads for (at, role), heads in found.items() if at == block}
        assert mine.keys() == {"query", "key", "value", "dense"}
        assert mine["query"] == ()
        assert len(mine["key"]) == shared // 4
        assert mine["value"] == tuple(range(shared))
    together = selected(name, make(name), qkv=0.25, dense=0.25)
    assert {heads for (_, role), heads in together.items() if role == "dense"} == {
        heads for (_, role), heads in found.items() if role == "dense"
    }
    rows = WIDTH[name] * (shared // 4 + shared)
    tuned = [m for n, m in model.named_modules() if isinstance(m, SparseDelta) and m.axis == 0]
    assert sum(len(spf.index) for spf in tuned) == 2 * rows


def test_a_key_is_ranked_by_its_own_weights_where_it_is_chosen_apart() -> None:
    model = make("llama")
    weight = model.model.layers[0].self_attn.k_proj.weight.detach()
    expected = best([float(w.abs().sum()) for w in weight.chunk(SHARED)], 2)
    found = selected("llama", model, key=0.5, value=0.25)
    assert found[0, "key"] == expected


def test_nothing_is_run_where_nothing_is_to_be_chosen() -> None:
    """All values, no queries and keys: no head is ranked, so no batch is read."""
    config = SPFConfig(query=0, key=0, value=1, dense=1, select="fisher")
    model = apply_spf(make("llama"), config)
    assert {h for roles in chosen_heads(model).values() for h in roles.values()} == {
        (), tuple(range(SHARED)), tuple(range(HEADS))
    }  # fmt: skip


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_activation_ranks_heads_by_their_outputs(name: str) -> None:
    model = make(name)
    scores: Scores = {}
    for block in range(2):
        outputs = head_outputs(name, model, block, lambda: two_batches(model))
        assert len(outputs) == 2
        each = [
            sum(float(seen[:, :, head].double().abs().sum()) for seen in outputs)
            for head in range(HEADS)
        ]
        pairs = [each[2 * g] + each[2 * g + 1] for g in range(SHARED)]  # two queries read each key
        for role in owned(name, model, block):
            scores[block, role] = pairs if role == "key-value" else each
    check_choice(name, "activation", scores)


def head_outputs(name: str, model: Any, block: int, run: Callable[[], object]) -> list[Tensor]:
    """What the heads of a block put out in each forward pass: [B, T, heads, width]."""
    seen: list[Tensor] = []
    layer = output_projection(name, model, block)
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    run()
    handle.remove()
    return [inputs.unflatten(-1, (HEADS, -1)) for inputs in seen]


@pytest.mark.parametrize(
    "name",
    ARRANGEMENTS,
)
def test_what_is_tuned_reaches_the_outputs_of_its_own_head_only(name: str) -> None:
    """Oracle without any layout: changing one head must not show in another head's output."""
    roles = ("qkv",) if name in ("gpt2", "neox") else ("query", "key-value")
    path = {
        "gpt2": "transformer.h.0.attn",
        "neox": "gpt_neox.layers.0.attention",
    }.get(name, "model.layers.0.self_attn")
    for role in roles:
        for head in (0, in_a_group(role) - 2):
            model = make(name, blocks=1)
            (before,) = head_outputs(name, model, 0, lambda: logits_of(model))  # noqa: B023
            apply_spf(model, SPFConfig(), heads={path: {role: (head,)}})
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.normal_(generator=torch.Generator().manual_seed(1))
            (after,) = head_outputs(name, model, 0, lambda: logits_of(model))  # noqa: B023
            changed = (after - before).abs().amax(dim=(0, 1, 3)) > 1e-5
            expected = [2 * head, 2 * head + 1] if role == "key-value" else [head]
            assert changed.nonzero().flatten().tolist() == expected


def test_heads_in_another_arrangement_under_a_known_name_are_refused() -> None:
    """GPTBigCode calls its projection c_attn, too, and has query, key, value head by head."""
    with pytest.raises(UnsupportedModelError, match=r"transformer\.h\.0"):
        find_heads(make("bigcode", blocks=1))


def test_random_follows_from_the_seed_and_the_block_alone() -> None:
    def draw(*, weights: int = 0, blocks: int = 4, **config: Any) -> Any:
        model = make("llama", blocks=blocks, seed=weights)
        return selected("llama", model, qkv=0.5, dense=0.5, select="random", **config)

    first = draw(seed=7)
    torch.manual_seed(123)
    assert draw(seed=7) == first
    assert draw(seed=7, weights=5) == first
    assert draw(seed=8) != first
    some = draw(seed=7, layers=(3, 1))
    assert some == {key: heads for key, heads in first.items() if key[0] in (1, 3)}
    assert len({heads for (_, role), heads in first.items() if role == "query"}) > 1


def test_random_gives_every_head_a_chance() -> None:
    found = [
        selected("llama", make("llama", blocks=1), qkv=0.125, dense=0.125, select="random", seed=s)
        for s in range(60)
    ]
    for role in ("query", "key-value", "dense"):
        assert {heads[0, role][0] for heads in found} == set(range(in_a_group(role)))


@pytest.mark.parametrize("select", ["gradient", "activation"])
def test_selectors_that_look_at_data_refuse_without_it(select: Any) -> None:
    model = make("llama")
    assert SPFConfig(select=select).looks_at_data
    with pytest.raises(ModelError, match=f"'{select}' looks at data, and none was given"):
        apply_spf(model, SPFConfig(select=select))
    assert not any(isinstance(module, SparseDelta) for module in model.modules())


@pytest.mark.parametrize("select", ["l1-largest", "l1-smallest", "random"])
def test_the_other_selectors_never_run_the_model(select: Any) -> None:
    def calibrate() -> Tensor:
        raise AssertionError

    assert not SPFConfig(select=select).looks_at_data
    apply_spf(make("llama"), SPFConfig(select=select), calibrate=calibrate)


def traces(model: nn.Module) -> dict[str, Any]:
    """What choosing could leave behind: gradients, flags and hooks."""
    return {
        "trainable": [n for n, p in model.named_parameters() if p.requires_grad],
        "gradients": [n for n, p in model.named_parameters() if p.grad is not None],
        "parameter hooks": [
            n
            for n, p in model.named_parameters()
            if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None)
        ],
        "module hooks": [
            n
            for n, m in model.named_modules()
            if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
        ],
    }


NOTHING: dict[str, list[str]] = {
    "trainable": [], "gradients": [], "parameter hooks": [], "module hooks": [],
}  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("select", SELECTORS)
def test_choosing_leaves_nothing_behind(select: Any, name: str) -> None:
    model = make(name).requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    choose(find_heads(model), SPFConfig(select=select), lambda: loss_of(model))
    assert traces(model) == NOTHING
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_no_block_keeps_its_gradient_while_the_next_one_makes_its_own() -> None:
    """Memory: a gradient of every attention weight would be as large as full fine-tuning's."""
    model = make("llama").requires_grad_(False)
    held: list[list[str]] = []

    def watch(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        output.register_hook(look)

    def look(_gradient: Tensor) -> None:
        held.append([n for n, p in model.named_parameters() if p.grad is not None])

    def calibrate() -> Tensor:
        model.model.layers[0].self_attn.o_proj.register_forward_hook(watch)
        return loss_of(model)

    choose(find_heads(model), SPFConfig(select="gradient"), calibrate)
    assert held == [[]]


@pytest.mark.parametrize("select", ["gradient", "activation"])
def test_a_calibration_that_fails_leaves_nothing_behind(select: Any) -> None:
    model = make("llama").requires_grad_(False)

    def calibrate() -> Tensor:
        loss_of(model)
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        choose(find_heads(model), SPFConfig(select=select), calibrate)
    assert traces(model) == NOTHING


def test_choosing_by_gradient_leaves_no_gradient_on_lora() -> None:
    with quiet():
        model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    before = traces(model)
    choose(find_heads(model), SPFConfig(select="gradient"), lambda: loss_of(model))
    assert before["trainable"]
    assert traces(model) == before


@pytest.mark.parametrize("select", ["l1-largest", "l1-smallest", "gradient", "activation"])
def test_ties_go_to_the_lower_numbers(select: Any) -> None:
    """Everybody chooses the same heads, even where they do not differ.

    With zeros every score is zero: equal ones would not be, where a processor adds up columns in
    different orders.
    """
    model = make("llama")
    with torch.no_grad():
        for block in range(2):
            for slices in (s for by in owned("llama", model, block).values() for s in by):
                for weight, where in slices:
                    weight[where] = 0
    found = selected("llama", model, qkv=0.5, dense=0.375, select=select)
    for (_, role), heads in found.items():
        count = 3 if role == "dense" else in_a_group(role) // 2
        assert heads == tuple(range(count))


@pytest.mark.parametrize("select", SELECTORS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_shapes_alone_give_the_same_tensors_without_data(name: str, select: Any) -> None:
    config = SPFConfig(qkv=0.625, dense=0.25, select=select)
    real = make(name)
    apply_spf(real, config, calibrate=lambda: loss_of(real))
    with torch.device("meta"):
        meta = type(real)(real.config)
    apply_spf(meta, config)
    shapes = {n: p.shape for n, p in real.named_parameters() if p.requires_grad}
    assert shapes
    assert {n: p.shape for n, p in meta.named_parameters() if p.requires_grad} == shapes
    assert all(p.is_meta for p in meta.parameters())


def test_layers_restrict_what_is_tuned() -> None:
    model = make("llama", blocks=3)
    assert {block for block, _ in selected("llama", model, layers=(2, 0, 2))} == {0, 2}
    tuned = [n for n, p in model.named_parameters() if p.requires_grad]
    assert tuned
    assert not any(".layers.1." in name for name in tuned)


def test_a_block_beyond_the_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no block 2: the model has blocks 0 to 1"):
        apply_spf(make("llama"), SPFConfig(layers=(0, 2)))


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        ({"model.layers.0.self_attn": {"query": (8,)}}, "query heads 0 to 7, each once"),
        ({"model.layers.0.self_attn": {"key-value": (4,)}}, "key-value heads 0 to 3, each once"),
        ({"model.layers.0.self_attn": {"dense": (-1,)}}, "dense heads 0 to 7, each once"),
        ({"model.layers.0.self_attn": {"query": (1, 1)}}, "each once"),
        ({"model.layers.0.self_attn": {"qkv": (1,)}}, "no heads 'qkv' in model.layers.0"),
        ({"model.layers.9.self_attn": {"query": (1,)}}, "no heads 'query' in model.layers.9"),
    ],
)
def test_given_heads_that_are_not_there_are_refused(heads: Any, text: str) -> None:
    model = make("llama")
    with pytest.raises(ModelError, match=text):
        apply_spf(model, SPFConfig(), heads=heads)
    assert not any(isinstance(module, SparseDelta) for module in model.modules())


def test_given_heads_are_taken_as_they_are() -> None:
    model = make("llama")
    heads = {"model.layers.1.self_attn": {"query": (5, 2), "dense": (7,)}}
    apply_spf(model, SPFConfig(select="gradient"), heads=heads)
    tuned = {n: p.shape for n, p in model.named_parameters() if p.requires_grad}
    assert tuned == {
        "model.layers.1.self_attn.q_proj.spf.delta": (16, 64),
        "model.layers.1.self_attn.o_proj.spf.delta": (64, 8),
    }


@pytest.mark.usefixtures("float64")
def test_padding_does_not_count_as_activation() -> None:
    """Texts of different lengths in one batch, against each alone."""
    rows = [list(range(5, 5 + n)) for n in (3, 16, 7)]

    def scores(batches: list[list[list[int]]]) -> Any:
        model = make("llama")

        def run() -> Any:
            for texts in batches:
                width = max(map(len, texts))
                ids = torch.tensor([row + [0] * (width - len(row)) for row in texts])
                mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in texts])
                yield model(input_ids=ids, attention_mask=mask).logits.sum()

        return _activation(find_heads(model), run, model)

    together, alone = scores([rows]), scores([[row] for row in rows])
    assert len(together) == len(alone) > 2
    for mine, theirs in zip(together, alone, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=0)


def test_a_module_that_is_no_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="Linear has no config"):
        apply_spf(torch.nn.Linear(4, 4), SPFConfig(qkv=0.5, dense=0.5))
