from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict

from sealtune.errors import AdapterMismatchError, TargetModulesError
from sealtune.job.sections import LoraSpec, TuningSpec
from sealtune.model.load import load_model
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.tuning.apply import apply_tuning
from tests.model.test_load import spec


def adapted(folder: Path, *, task: str = "classification", seed: int = 0, **tuning: Any) -> Any:
    meta = bool(tuning.pop("meta", False))
    model = load_model(spec(folder, task), 3, meta=meta)
    lora = LoraSpec.model_validate(tuning)
    return apply_tuning(model, TuningSpec(lora=lora), task, seed)


def test_names_are_those_of_a_peft_file(llama: Path) -> None:
    model = adapted(llama, targets=("q_proj", "down_proj"), rank=2)
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = trainable_state(model)
    assert set(state) == set(expected)
    assert "base_model.model.score.weight" in state
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_initial_values_follow_from_the_seed_alone(llama: Path) -> None:
    torch.manual_seed(1)
    one = trainable_state(adapted(llama, seed=5))
    torch.manual_seed(2)
    two = trainable_state(adapted(llama, seed=5))
    other = trainable_state(adapted(llama, seed=6))
    assert all(torch.equal(one[name], two[name]) for name in one)
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert moved == {name for name in one if ".lora_B." not in name}
    assert all(not one[name].any() for name in one if ".lora_B." in name)


def test_meta_model_gives_the_same_names_and_shapes(llama: Path) -> None:
    real, meta = trainable_state(adapted(llama)), trainable_state(adapted(llama, meta=True))
    assert {n: t.shape for n, t in real.items()} == {n: t.shape for n, t in meta.items()}
    assert all(t.is_meta for t in meta.values())


def test_all_linear_covers_the_blocks_and_not_the_head(llama: Path) -> None:
    names = trainable_state(adapted(llama, task="causal-lm", targets="all-linear"))
    layers = {name.split(".lora_")[0].split(".")[-1] for name in names}
    assert layers == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip


def test_layers_restrict_the_adapter(llama: Path) -> None:
    names = trainable_state(adapted(llama, task="causal-lm", layers=(1,)))
    assert names
    assert all(".layers.1." in name for name in names)


def test_gpt2_layers_are_adapted(gpt2: Path) -> None:
    model = adapted(gpt2, task="causal-lm", targets=("c_attn",), rank=2)
    shapes = {n.split(".")[-2]: tuple(t.shape) for n, t in trainable_state(model).items()}
    assert shapes == {"lora_A": (2, 32), "lora_B": (96, 2)}


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (("q_prj",), "near names: q_proj"),
        (("mlp",), "a LlamaMLP, not a linear layer"),
        (("input_layernorm",), "a LlamaRMSNorm, not a linear layer"),
        (("score",), "outside the decoder blocks"),
        (("q_proj", "embed_tokens"), "outside the decoder blocks"),
    ],
)
def test_wrong_targets_are_explained(llama: Path, targets: tuple[str, ...], text: str) -> None:
    with pytest.raises(TargetModulesError) as caught:
        adapted(llama, targets=targets)
    assert text in str(caught.value)


def test_layer_beyond_the_model_is_refused(llama: Path) -> None:
    with pytest.raises(TargetModulesError, match="blocks 0 to 1"):
        adapted(llama, layers=(0, 2))


def test_state_goes_out_and_in(llama: Path) -> None:
    one, two = adapted(llama, seed=1), adapted(llama, seed=2)
    load_trainable_state(two, trainable_state(one))
    assert all(torch.equal(t, trainable_state(two)[n]) for n, t in trainable_state(one).items())


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype", "nan"])
def test_state_that_does_not_fit_changes_nothing(llama: Path, fault: str) -> None:
    model = adapted(llama)
    before = {n: t.clone() for n, t in trainable_state(model).items()}
    state = {n: t + 1 for n, t in before.items()}
    name = next(iter(state))
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        state["base_model.model.other"] = torch.zeros(1)
    elif fault == "shape":
        state[name] = state[name].t()
    elif fault == "dtype":
        state[name] = state[name].double()
    else:
        state[name][0, 0] = float("nan")
    with pytest.raises(AdapterMismatchError):
        load_trainable_state(model, state)
    assert all(torch.equal(t, before[n]) for n, t in trainable_state(model).items())
