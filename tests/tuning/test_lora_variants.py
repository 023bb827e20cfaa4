"""rsLoRA, LoRA+, DoRA and the orthogonal start, each against peft's own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sealtune.job import first_values
from sealtune.job.first_values import draw
from sealtune.job.plan import FirstValue
from sealtune.job.sections import LoraSpec, TrainSpec, TuningSpec
from sealtune.model.load import load_model, quiet
from sealtune.model.partial import load_part
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import make_optimizer
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import check_export, load_adapter, save_adapter
from sealtune.tuning.merge import merge_adapter
from tests.model.test_export import fingerprint
from tests.model.test_load import spec
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.test_training import run
from tests.model.tiny import LABELS, batch_of, make_texts
from tests.offload.test_training import compare, make_job

TARGETS = ["down_proj", "q_proj"]
IDS = torch.randint(2, 400, (3, 8), generator=torch.Generator().manual_seed(0))
# settings of a job -> those of peft
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rslora": ({"scaling": "rslora"}, {"use_rslora": True}),
    "dora": ({"dora": True}, {"use_dora": True}),
    "orthogonal": ({"start": "orthogonal"}, {"init_lora_weights": "orthogonal"}),
    "all": (
        {"scaling": "rslora", "dora": True, "start": "orthogonal"},
        {"use_rslora": True, "use_dora": True},
    ),
}


def theirs(folder: Path, **settings: Any) -> Any:
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(folder)
        config = LoraConfig(
            r=4, lora_alpha=12, target_modules=TARGETS, task_type="CAUSAL_LM", **settings
        )
        return get_peft_model(base, config)


def ours(folder: Path, **settings: Any) -> Any:
    return adapted(folder, task="causal-lm", targets=TARGETS, rank=4, alpha=12, **settings)


def scale_of(model: Any) -> float:
    found = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    (scale,) = found
    return float(scale)


def scatter(model: Any) -> None:
    """Draw what is tuned anew, so that every part of it counts."""
    source = torch.Generator().manual_seed(2)
    for tensor in trainable_state(model).values():
        tensor.add_(torch.randn(tensor.shape, generator=source) * 0.05)


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_and_steps_are_pefts(llama: Path, name: str) -> None:
    """The same tensors under peft's own names, and three steps of AdamW from there."""
    mine, its = VARIANTS[name]
    one, two = ours(llama, **mine), theirs(llama, **its)
    scatter(one)
    state = trainable_state(one)
    assert set(state) == set(get_peft_model_state_dict(two, save_embedding_layers=False))
    load_trainable_state(two, state)
    optimizers = [
        make_optimizer(one, TrainSpec(learning_rate=0.01)),
        torch.optim.AdamW(
            [p for p in two.parameters() if p.requires_grad], lr=0.01, weight_decay=0
        ),
    ]
    for _ in range(3):
        losses = []
        for model, optimizer in zip((one, two), optimizers, strict=True):
            loss = model(input_ids=IDS, labels=IDS).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[0] == losses[1]
    other = trainable_state(two)
    assert all(torch.equal(tensor, other[n]) for n, tensor in trainable_state(one).items())


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("task", ["causal-lm", "classification"])
def test_plain_peft_loads_the_files(llama: Path, tmp_path: Path, name: str, task: str) -> None:
    settings = {"targets": TARGETS, "rank": 4, "alpha": 12, **VARIANTS[name][0]}
    model = adapted(llama, task=task, **settings)
    scatter(model)
    model.eval()
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, task))
    tasks = task_of(llama, task, labels=LABELS if task == "classification" else ())
    batch = batch_of(tasks, make_texts(4, 0))
    causal = task == "causal-lm"
    kind = AutoModelForCausalLM if causal else AutoModelForSequenceClassification
    more = {} if causal else {"num_labels": len(LABELS)}
    with quiet(), torch.no_grad():
        base = kind.from_pretrained(llama, **more)
        theirs = tasks.logits(PeftModel.from_pretrained(base, tmp_path / "adapter"), batch)
        mine = tasks.logits(model, batch)
    assert torch.equal(mine, theirs)
    assert check_export(tmp_path / "adapter", model, batch).difference == 0
    done = merge_adapter(tmp_path / "adapter", tmp_path / "merged", say=lambda _: None)
    assert done.check.agreement == 1


def test_the_scale_is_in_the_file(llama: Path, tmp_path: Path) -> None:
    """A file whose scaling was changed would load and answer otherwise."""
    model = ours(llama, scaling="rslora")
    assert scale_of(model) == 12 / math.sqrt(4)
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, "causal-lm"))
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["use_rslora"] is True
    assert scale_of(load_adapter(tmp_path / "adapter").model) == 12 / math.sqrt(4)


def test_lora_plus_is_pefts(llama: Path) -> None:
    """Its optimizer with the same ratio takes the same steps; weight decay included."""
    one, two = ours(llama, learning_rate_ratio=8.0), theirs(llama)
    load_trainable_state(two, trainable_state(one))
    train = TrainSpec(learning_rate=1e-3, weight_decay=0.1)
    optimizers = [
        make_optimizer(one, train),
        create_loraplus_optimizer(
            two, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8.0, loraplus_weight_decay=0.1
        ),
    ]
    rates = {g["lr"]: len(g["params"]) for g in optimizers[0].param_groups}
    assert rates == {1e-3: 4, 8e-3: 4}
    for _ in range(4):
        for model, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
    other = trainable_state(two)
    assert all(torch.equal(tensor, other[n]) for n, tensor in trainable_state(one).items())
    alike = ours(llama)
    assert len(make_optimizer(alike, train).param_groups) == 1


def test_the_head_keeps_the_jobs_rate(llama: Path) -> None:
    model = adapted(llama, learning_rate_ratio=8.0)
    groups = make_optimizer(model, TrainSpec(learning_rate=1e-3)).param_groups
    slow = next(g for g in groups if g["lr"] == 1e-3)["params"]
    assert any(parameter is model.base_model.model.score.weight for parameter in slow) or any(
        parameter.shape == (3, 64) for parameter in slow
    )


def test_the_orthogonal_start_is_pefts(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same normal draws, peft makes the same A and B."""
    model = ours(llama, start="orthogonal", seed=3)
    state = trainable_state(model)
    name = next(n for n in state if ".lora_A." in n)
    other = name.replace(".lora_A.", ".lora_B.")
    layer = name.rpartition(".lora_")[0]

    def normal(key: str, *shape: int) -> Tensor:
        return torch.from_numpy(first_values._source(3, key).standard_normal(shape))

    (rank, inner), outer = state[name].shape, state[other].shape[0]
    draws = iter(
        [
            normal(layer, rank, rank),
            normal(name, inner, rank // 2),
            normal(other, outer, rank // 2).t(),
        ]
    )
    host = theirs(llama)
    target = host.get_submodule(layer)
    monkeypatch.setattr(torch, "randn", lambda *_: next(draws))
    target.orthogonal_init("default")
    monkeypatch.undo()
    assert torch.allclose(target.lora_A["default"].weight, state[name], atol=1e-6)
    assert torch.allclose(target.lora_B["default"].weight, state[other], atol=1e-6)


def test_the_orthogonal_start_changes_nothing_and_is_far_from_zero(llama: Path) -> None:
    law = FirstValue(law="orthogonal", scale=0.1)
    a = draw(law, 1, "x.lora_A.weight", (6, 40)).astype(np.float64)
    b = draw(law, 1, "x.lora_B.weight", (30, 6)).astype(np.float64)
    assert np.linalg.norm(b @ a) < 1e-6 * np.linalg.norm(b) * np.linalg.norm(a)
    assert np.linalg.matrix_rank(a, 1e-5) == np.linalg.matrix_rank(b, 1e-5) == 3
    assert a.std() == pytest.approx(0.1 / math.sqrt(2), rel=0.2)
    elsewhere = draw(law, 1, "y.lora_B.weight", (30, 6)).astype(np.float64)
    assert np.linalg.norm(elsewhere @ a) > 0.1 * np.linalg.norm(b) * np.linalg.norm(a)
    model, plain = ours(llama, start="orthogonal"), load_model(spec(llama, "causal-lm"), None)
    with torch.no_grad():
        got, expected = model(input_ids=IDS).logits, plain(input_ids=IDS).logits
    assert float((got - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(
    "settings", [{"scaling": "rslora", "learning_rate_ratio": 4.0}, {"start": "orthogonal"}]
)
def test_masked_it_trains_as_unmasked(llama: Path, settings: dict[str, Any]) -> None:
    lora = LoraSpec(rank=4, targets="all-linear", **settings)
    job = make_job(llama, tuning=TuningSpec(lora=lora))

    def tuned(_job: Any) -> Any:
        return apply_tuning(load_model(job.model, None), job.tuning, job.model.task, 1)

    compare(job, tuned)
    laws = {law.law for law in make_plan(job, None).first_values.values()}
    expected = {"orthogonal"} if "start" in settings else {"uniform", "constant"}
    assert laws == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dora_on_the_top_of_a_split_model(deep_llama: Path, dtype: torch.dtype) -> None:
    """Lengths begin as the frozen rows' own, so nothing changes; then all of it is trained."""
    where = spec(deep_llama, "classification")
    top = load_part(where, len(LABELS), 2, "top", dtype=dtype)
    tuning = TuningSpec(lora=LoraSpec(dora=True, targets=("q_proj", "o_proj"), rank=2))
    frozen = {n: p.clone() for n, p in top.named_parameters() if "q_proj" in n}
    model = apply_tuning(top, tuning, "classification", 1, first_block=2)
    state = trainable_state(model)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    (name,) = (n for n in state if "3.self_attn.q_proj.lora_magnitude_vector" in n)
    weight = frozen["model.layers.3.self_attn.q_proj.weight"].float()
    assert torch.allclose(
        state[name], weight.norm(dim=1), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6
    )


def test_dora_learns(llama: Path) -> None:
    model = adapted(llama, dora=True)
    before = {n: t.clone() for n, t in trainable_state(model).items()}
    result = run(model, task_of(llama))
    assert result.trained_moved
    after = trainable_state(model)
    assert all(not torch.equal(t, before[n]) for n, t in after.items() if "magnitude" in n)
