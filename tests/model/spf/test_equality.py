"""SPF against full fine-tuning of the same weights: the same gradients, steps and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.pytorch_utils import Conv1D

from sealtune.errors import ModelError, TargetModulesError, UnsupportedModelError
from sealtune.model.load import quiet
from sealtune.tuning.spf import SPFConfig, apply_spf, chosen_heads, merge_spf
from sealtune.tuning.spf.apply import remove_spf
from sealtune.tuning.spf.layer import SparseDelta
from tests.model.spf.decoders import (
    ARRANGEMENTS,
    batch,
    logits_of,
    loss_of,
    make,
    masks,
)

WHOLE = SPFConfig(qkv=1, dense=1)
SOME = SPFConfig(qkv=0.375, dense=0.25, select="random", seed=3)


def deltas(model: nn.Module) -> dict[str, SparseDelta]:
    return {n: m for n, m in model.named_modules() if isinstance(m, SparseDelta)}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def fully_tuned(name: str) -> tuple[Any, dict[nn.Parameter, Tensor]]:
    """The model with all attention weights trainable, and masks that are all ones."""
    model = make(name).requires_grad_(False)
    spf = make(name)
    found = masks(name, model, chosen_heads(apply_spf(spf, WHOLE)))
    for weight in found:
        weight.requires_grad_(True)
    return model, found


def steps(model: Any, count: int, rate: float = 0.01) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(trainable(model), lr=rate, weight_decay=0)
    for i in range(count):
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, batch(i)).backward()
        optimizer.step()
    return optimizer


def jumble(model: nn.Module, size: float = 0.05) -> None:
    """Give every delta some value."""
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for spf in deltas(model).values():
            spf.delta.copy_(size * torch.randn(spf.delta.shape, generator=source))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    """Within ``tolerance`` of the largest value."""
    return a.shape == b.shape and bool(
        (a - b).detach().abs().max() <= tolerance * b.detach().abs().max()
    )


@pytest.mark.parametrize("config", [WHOLE, SOME], ids=["whole", "some"])
@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.usefixtures("float64")
def test_gradients_are_those_of_full_fine_tuning(name: str, config: SPFConfig) -> None:
    full, weights = fully_tuned(name)
    loss_of(full).backward()
    model = apply_spf(make(name), config)
    loss_of(model).backward()
    chosen = masks(name, full, chosen_heads(model))
    names = dict(full.named_modules())
    checked = set()
    for path, spf in deltas(model).items():
        layer = names[path.removesuffix(".spf")]
        gradient, mask = layer.weight.grad, chosen[layer.weight]
        if isinstance(layer, Conv1D):
            gradient, mask = gradient.t(), mask.t()
        one = mask.any(dim=1 - spf.axis)  # rows (axis 0) or columns that heads own, whole ones
        assert torch.equal(
            mask, one[:, None].expand_as(mask) if spf.axis == 0 else one.expand_as(mask)
        )
        expected = gradient[one] if spf.axis == 0 else gradient[:, one]
        assert spf.delta.grad is not None
        assert close(spf.delta.grad, expected), path
        assert float(expected.abs().max()) > 1e-4
        checked.add(layer.weight)
    assert checked == {weight for weight, mask in chosen.items() if mask.any()}
    if config is WHOLE:
        assert checked == set(weights)
        assert all(mask.all() for mask in chosen.values())


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.usefixtures("float64")
def test_a_step_of_adamw_is_that_of_full_fine_tuning(name: str) -> None:
    full, weights = fully_tuned(name)
    before = {weight: weight.detach().clone() for weight in weights}
    steps(full, 1)
    model = apply_spf(make(name), WHOLE)
    steps(model, 1)
    merge_spf(model)
    merged = dict(model.named_parameters())
    for path, weight in full.named_parameters():
        if weight not in weights:
            assert torch.equal(merged[path], weight)
            continue
        assert weight.grad is not None
        moved = merged[path].detach() - before[weight]
        expected = weight.detach() - before[weight]
        # AdamW's first step is nearly the sign of the gradient, which enlarges noise around zero
        assert close(moved, expected, 1e-8)
        assert float(expected.abs().max()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.usefixtures("float64")
def test_many_steps_stay_with_masked_full_fine_tuning(name: str) -> None:
    """Five steps of plain descent: every weight outside the chosen slices is held still by hand."""
    full, weights = fully_tuned(name)
    model = apply_spf(make(name), SOME)
    chosen = masks(name, full, chosen_heads(model))
    start = {weight: weight.detach().clone() for weight in weights}
    for i in range(5):
        for each in (full, model):
            each.zero_grad()
            loss_of(each, batch(i)).backward()
            with torch.no_grad():
                for weight in trainable(each):
                    weight.sub_(0.05 * weight.grad * chosen.get(weight, torch.tensor(1.0)))
    merge_spf(model)
    merged = dict(model.named_parameters())
    for path, weight in full.named_parameters():
        if weight in chosen:
            mask = chosen[weight]
            assert torch.equal(merged[path][~mask], start[weight][~mask])
            assert close(merged[path][mask] - start[weight][mask], (weight - start[weight])[mask])


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_gradients_and_optimizer_state_exist_for_the_chosen_slices_only(name: str) -> None:
    model = apply_spf(make(name), SOME)
    plain = make(name)
    count = sum(int(m.sum()) for m in masks(name, plain, chosen_heads(model)).values())
    optimizer = steps(model, 1)
    loss_of(model).backward()
    own = {spf.delta for spf in deltas(model).values()}
    assert sum(delta.numel() for delta in own) == count
    assert {p for p in model.parameters() if p.requires_grad} == own
    assert {p for p in model.parameters() if p.grad is not None} == own
    assert all(delta.dtype == torch.float32 for delta in own)
    assert set(optimizer.state) == own
    moments = [
        state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
    ]
    assert sum(moment.nbytes for moment in moments) == 2 * 4 * count
    assert all(
        state.keys() == {"step", "exp_avg", "exp_avg_sq"} for state in optimizer.state.values()
    )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_half_of_the_heads_need_half_of_the_optimizer_state(name: str) -> None:
    sizes = []
    for share in (0.25, 0.5, 1.0):
        optimizer = steps(apply_spf(make(name), SPFConfig(qkv=share, dense=share)), 1)
        sizes.append(
            sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in optimizer.state.values())
        )
    assert sizes[2] == 2 * sizes[1] == 4 * sizes[0] > 0


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_frozen_weights_stay_as_they_are_bit_for_bit(name: str) -> None:
    """Outside the chosen slices at all times, and everywhere once SPF is off again."""
    plain, model = make(name), apply_spf(make(name), SOME)
    first = loss_of(model).item()
    steps(model, 5)
    assert loss_of(model).item() < first
    chosen = {
        path: mask
        for weight, mask in masks(name, plain, chosen_heads(model)).items()
        for path, own in plain.named_parameters()
        if own is weight
    }
    state = model.state_dict()
    for key, value in plain.state_dict().items():
        mask = chosen.get(key, torch.zeros_like(value, dtype=torch.bool))
        assert torch.equal(state[key][~mask], value[~mask])
        assert not mask.any() or bool((state.pop(key) != value)[mask].float().mean() > 0.9)
    own = {key: value for key, value in state.items() if key.endswith(".spf.delta")}
    assert set(own) == {f"{path}.delta" for path in deltas(model)}
    assert all(delta.any() for delta in own.values())
    after = remove_spf(model).state_dict()
    assert after.keys() == plain.state_dict().keys()
    assert all(torch.equal(after[key], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_nothing_changes_before_training(name: str) -> None:
    plain = make(name)
    assert torch.equal(logits_of(apply_spf(make(name), SOME)), logits_of(plain))


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.usefixtures("float64")
def test_merging_gives_a_plain_model_with_the_same_answers(name: str, tmp_path: Path) -> None:
    plain, model = make(name), apply_spf(make(name), SOME)
    chosen = masks(name, plain, chosen_heads(model))
    jumble(model)
    live = logits_of(model)
    assert merge_spf(model) is model
    merged = logits_of(model)
    assert close(merged, live)
    assert float((merged - logits_of(plain)).abs().max()) > 1e-2
    assert not deltas(model)
    assert not any(m._forward_hooks for m in model.modules())
    assert [n for n, _ in model.named_modules()] == [n for n, _ in plain.named_modules()]
    assert list(model.state_dict()) == list(plain.state_dict())
    with pytest.raises(ModelError, match="no SPF on this model"):
        chosen_heads(model)
    after = dict(model.named_parameters())
    for path, weight in plain.named_parameters():  # exactly the chosen slices moved
        moved = after[path] != weight
        assert torch.equal(moved, chosen.get(weight, torch.zeros_like(moved)))
    with quiet():
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of(again), merged)


@pytest.mark.usefixtures("float64")
def test_a_module_to_save_is_trained_whole_and_stays_after_merging() -> None:
    model = apply_spf(make("llama"), SPFConfig(modules_to_save=("lm_head",)))
    whole = {n for n, p in model.named_parameters() if p.requires_grad and "spf" not in n}
    assert whole == {"lm_head.weight"}
    before = model.lm_head.weight.detach().clone()
    steps(model, 2)
    live = logits_of(model)
    assert not torch.equal(model.lm_head.weight, before)
    assert close(logits_of(merge_spf(model)), live)


def test_a_module_to_save_that_is_not_there_is_named() -> None:
    with pytest.raises(TargetModulesError, match="names scores, which LlamaForCausalLM does not"):
        apply_spf(make("llama"), SPFConfig(modules_to_save=("scores",)))


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    model = make("llama")
    with pytest.raises(TargetModulesError):
        apply_spf(model, SPFConfig(modules_to_save=("scores",)))
    assert not deltas(model)
    apply_spf(model, SPFConfig())


@pytest.mark.usefixtures("float64")
def test_applying_twice_is_refused_until_it_is_merged() -> None:
    model = apply_spf(make("llama"), SOME)
    with pytest.raises(ModelError, match="on this model already"):
        apply_spf(model, SOME)
    jumble(model)
    live = logits_of(model)
    apply_spf(merge_spf(model), SPFConfig(qkv=0.5))
    assert close(logits_of(model), live)
    jumble(model)
    live = logits_of(model)
    assert close(logits_of(merge_spf(model)), live)


def test_merging_without_spf_is_refused() -> None:
    with pytest.raises(ModelError, match="no SPF on this model"):
        merge_spf(make("llama"))


# --- with LoRA ---------------------------------------------------------------------------------


def with_lora(name: str) -> Any:
    """LoRA on some of the projections that SPF tunes, and on others."""
    targets = {
        "llama": ["q_proj", "o_proj", "up_proj"],
        "gpt2": ["c_attn", "c_fc"],
        "neox": ["query_key_value", "dense_4h_to_h"],
        "phi3": ["qkv_proj", "down_proj"],
        "qwen3": ["v_proj", "o_proj"],
    }[name]
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=name == "gpt2",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(1)
    with quiet():
        return get_peft_model(make(name), lora).eval()


@pytest.mark.parametrize("name", ARRANGEMENTS)
@pytest.mark.usefixtures("float64")
def test_lora_and_spf_train_together_and_merge_one_after_the_other(name: str) -> None:
    model = with_lora(name)
    adapters = {n for n, p in model.named_parameters() if p.requires_grad}
    plain = apply_spf(make(name), SOME)
    assert apply_spf(model, SOME) is model
    assert chosen_heads(model) == chosen_heads(plain)  # plain names and the base's weights
    own = {n for n, p in model.named_parameters() if p.requires_grad} - adapters
    assert len(own) == len(deltas(plain))
    assert all(n.endswith(".spf.delta") for n in own)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    first = loss_of(model).item()
    steps(model, 3)
    assert loss_of(model).item() < first
    written = {n.replace(".spf.delta", ".weight") for n in own}
    for n, p in model.named_parameters():
        assert torch.equal(p, start[n]) == (n not in own | adapters | written), n
    live = logits_of(model)
    merge_spf(model)
    assert not deltas(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == adapters
    assert close(logits_of(model), live)
    with quiet():
        base = model.merge_and_unload()
    assert list(base.state_dict()) == list(make(name).state_dict())
    assert close(logits_of(base), live)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.usefixtures("float64")
def test_gradients_beside_lora_are_those_of_full_fine_tuning_beside_lora(name: str) -> None:
    full, model = with_lora(name), with_lora(name)
    apply_spf(model, SOME)
    for each in (full, model):
        with torch.no_grad():
            for n, p in each.named_parameters():
                if ".lora_B." in n:
                    p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    chosen = masks(name, full.get_base_model(), _by_peft_names(model))
    for weight in chosen:
        weight.requires_grad_(True)
    loss_of(full).backward()
    loss_of(model).backward()
    theirs = dict(full.named_parameters())
    for n, p in model.named_parameters():
        if ".lora_" in n:
            assert close(p.grad, theirs[n].grad), n
    for path, spf in deltas(model).items():
        weight = theirs[path.removesuffix(".spf") + ".weight"]
        assert weight.grad is not None
        expected = weight.grad[chosen[weight]]  # flat, in the order of the stored weight
        got = spf.delta.grad
        assert got is not None
        assert close((got.t() if name == "gpt2" else got).reshape(-1), expected), path


def _by_peft_names(model: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """Attention modules keep their names inside the base model."""
    names = {n for n, _ in model.get_base_model().named_modules()}
    assert set(chosen_heads(model)) <= names
    return chosen_heads(model)


# --- what is not understood ----------------------------------------------------------------------


def test_multi_head_latent_attention_is_refused_by_name() -> None:
    config = DeepseekV3Config(
        vocab_size=100, hidden_size=32, intermediate_size=48, moe_intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
        n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2,
        pad_token_id=0, eos_token_id=0, bos_token_id=1,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config)
    with pytest.raises(UnsupportedModelError) as caught:
        apply_spf(model, SOME)
    assert "model.layers.0 (DeepseekV3DecoderLayer)" in str(caught.value)
    assert "self_attn.kv_b_proj" in str(caught.value)
    assert all(p.requires_grad for p in model.parameters())  # untouched


def test_a_renamed_projection_is_refused_by_name() -> None:
    model = make("llama")
    attention = model.model.layers[1].self_attn
    attention.queries = attention.q_proj
    del attention.q_proj
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1 \(LlamaDecoderLayer\)"):
        apply_spf(model, SOME)
    assert not deltas(model)
    apply_spf(model, SPFConfig(layers=(0,)))  # the other block is as ever


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("llama", "num_key_value_heads", 3), ("llama", "num_attention_heads", 16),
     ("gpt2", "n_head", 5), ("phi3", "num_key_value_heads", 8)],
)  # fmt: skip
def test_shapes_that_do_not_make_whole_heads_are_refused(name: str, key: str, value: int) -> None:
    model = make(name)
    setattr(model.config, key, value)
    path = "transformer.h.0.attn" if name == "gpt2" else "model.layers.0.self_attn"
    with pytest.raises(UnsupportedModelError, match=f"projections of {path} have"):
        apply_spf(model, SOME)


# --- bfloat16 and checkpointing ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_bfloat16_model_trains_in_float32(name: str) -> None:
    model = apply_spf(make(name).to(torch.bfloat16), SOME)
    exact = apply_spf(make(name).to(torch.bfloat16).float(), SOME)
    assert chosen_heads(model) == chosen_heads(exact)
    first = loss_of(model)
    first.backward()
    loss_of(exact).backward()
    for path, spf in deltas(model).items():
        assert spf.delta.dtype == spf.delta.grad.dtype == torch.float32  # type: ignore[union-attr]
        pair = torch.stack([spf.delta.grad, deltas(exact)[path].delta.grad]).flatten(1)  # type: ignore[list-item]
        assert torch.nn.functional.cosine_similarity(pair[0], pair[1], dim=0) > 0.97, path
    steps(model, 10)
    assert loss_of(model).item() < first.item() - 0.1
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_steps_too_small_for_bfloat16_add_up() -> None:
    model = apply_spf(make("llama").to(torch.bfloat16), SOME)
    weight = model.model.layers[0].self_attn.q_proj.weight
    typical = float(weight.detach().abs().float().mean())
    steps(model, 4, rate=1e-5)
    step = float(deltas(model)["model.layers.0.self_attn.q_proj.spf"].delta.detach().abs().max())
    assert 1e-5 < step < typical * 2**-9  # adding any of the steps to the weight would be lost
    live = logits_of(model).float()
    merge_spf(model)
    assert weight.dtype == torch.bfloat16
    assert float((logits_of(model).float() - live).abs().max()) < 0.05 * float(live.abs().max())


@pytest.mark.parametrize("lora", [False, True], ids=["spf", "spf-and-lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "neox", "phi3"])
def test_gradient_checkpointing_gives_the_same_gradients(name: str, lora: bool) -> None:
    found = []
    for on in (False, True):
        model = apply_spf(with_lora(name) if lora else make(name), SOME).train()
        if on:
            model.activation_checkpointing_enable()
        calls = []
        layer = next(m for m in model.modules() if isinstance(getattr(m, "spf", None), SparseDelta))
        layer.register_forward_hook(lambda *_: calls.append(1))  # noqa: B023
        loss_of(model).backward()
        assert len(calls) == (2 if on else 1)  # recomputed in the backward pass
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, recomputed = found
    assert plain.keys() == recomputed.keys()
    for n, gradient in plain.items():
        assert gradient is not None
        assert torch.equal(gradient, recomputed[n]), n
