"""A model without the layers that compute elsewhere: nothing of them is read, the rest is equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sealtune.errors import ModelError
from sealtune.job.plan import Backbone, SlicePlan
from sealtune.job.sections import TuningSpec
from sealtune.model.load import load_model
from sealtune.model.partial import Elsewhere
from sealtune.model.rest import load_rest, load_streamed
from sealtune.model.structure import find_blocks
from sealtune.model.training import local_round
from sealtune.model.weights import Weights
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning
from tests import sample_job
from tests.model.families import FAMILIES, make_family
from tests.model.test_load import spec
from tests.model.test_tasks import task_of
from tests.model.tiny import make_llama, make_texts

IDS = torch.arange(3, 21).view(2, 9)


NOTHING = SlicePlan(
    architecture="any", protect="adapter+data", blocks=0, prefix_blocks=0, modules=(), groups=(),
    trainable={}, backbone=Backbone(path="", tensors={}),
)  # fmt: skip


def plan_of(folder: Path, task: str = "causal-lm") -> SlicePlan:
    """Of a masked job of this model."""
    job = sample_job.make_job(folder, model={"task": task})
    return make_plan(job, 3 if task == "classification" else None, backbone=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_loaded_computes_as_the_whole_model(tmp_path: Path, name: str) -> None:
    where = spec(make_family(name, tmp_path / "model"), "causal-lm")
    whole, rest = load_model(where, None), load_rest(where, None, NOTHING)
    tied = whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    now = [m.weight.data_ptr() for m in (rest.get_input_embeddings(), rest.get_output_embeddings())]
    assert (len(set(now)) == 1) is tied
    with torch.no_grad():
        got, right = rest.double()(input_ids=IDS).logits, whole.double()(input_ids=IDS).logits
    assert torch.equal(got, right)


@pytest.mark.parametrize("task", ["causal-lm", "classification"])
def test_nothing_of_the_masked_layers_is_ever_read(
    llama: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    plan = plan_of(llama, task)
    elsewhere = [member for group in plan.groups for member in group.members]
    asked: list[str] = []
    read = Weights.read

    def record(self: Weights, names: Any, shape: Any) -> torch.Tensor:
        asked.extend(names)
        return read(self, names, shape)

    monkeypatch.setattr(Weights, "read", record)
    model = load_rest(spec(llama, task), 3 if task == "classification" else None, plan)
    assert asked
    assert not {f"{name}.weight" for name in elsewhere} & set(asked)
    for name in elsewhere:
        weight = model.get_submodule(name).weight
        assert weight.untyped_storage().nbytes() == 4  # one value, which is none
        assert weight.isnan().all()


def test_a_layer_that_nothing_took_the_place_of_stops_the_training(llama: Path) -> None:
    task = task_of(llama, "causal-lm", labels=())
    job = sample_job.make_job(llama, model={"task": "causal-lm"})
    plan = plan_of(llama)
    base = load_rest(job.model, None, plan.model_copy(update={"groups": plan.groups[-1:]}))
    model = apply_tuning(base, TuningSpec(rank=2), "causal-lm", 1)
    with pytest.raises(ModelError, match="loss is nan"):
        local_round(
            model, task, task.encode(make_texts(8, 1)), job.train, seed=1, round=1, site="one"
        )


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_stay_as_the_file_has_them(tmp_path: Path, tied: bool) -> None:
    folder = make_llama(tmp_path / "model", dtype=torch.bfloat16, tied=tied)
    rest = load_rest(spec(folder, "causal-lm"), None, NOTHING)
    table, head = rest.get_input_embeddings(), rest.get_output_embeddings()
    assert table.weight.dtype == head.weight.dtype == torch.bfloat16
    assert rest.dtype == torch.float32  # what PEFT makes its tensors of
    exact = load_model(spec(folder, "causal-lm"), None)
    assert torch.equal(table(IDS), exact.get_input_embeddings()(IDS))
    with torch.no_grad():
        got, right = rest(input_ids=IDS).logits, exact(input_ids=IDS).logits
    torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float64, torch.float8_e4m3fn, torch.int32], ids=str
)
def test_files_of_any_type_are_read_as_transformers_reads_them(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = make_family("llama", tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    where = spec(folder, "causal-lm")
    with torch.no_grad():
        got = load_rest(where, None, NOTHING)(input_ids=IDS).logits
        right = load_model(where, None)(input_ids=IDS).logits
    torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llama-tied", "gemma"])  # gemma's embedding scales
@pytest.mark.parametrize("same", [True, False])
def test_files_that_hold_two_matrices_where_one_was_tied(
    tmp_path: Path, name: str, same: bool
) -> None:
    folder = make_family(name, tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    table = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = table.clone() if same else torch.randn_like(table)
    save_file(tensors, path, metadata={"format": "pt"})
    where = spec(folder, "causal-lm")
    whole, rest = load_model(where, None), load_rest(where, None, NOTHING)
    heads = [model.get_output_embeddings().weight for model in (whole, rest)]
    assert torch.equal(heads[1], tensors["lm_head.weight"])
    assert torch.equal(*heads)
    assert (rest.get_input_embeddings().weight.data_ptr() == heads[1].data_ptr()) is same
    with torch.no_grad():
        got, right = rest.double()(input_ids=IDS).logits, whole.double()(input_ids=IDS).logits
    assert torch.equal(got, right)


def test_leading_blocks_that_run_elsewhere_are_missing_whole(llama: Path) -> None:
    rest = load_rest(
        spec(llama, "causal-lm"), None, NOTHING.model_copy(update={"prefix_blocks": 1})
    )
    _, blocks = find_blocks(rest)
    assert [isinstance(block, Elsewhere) for block in blocks] == [True, False]
    assert not rest.get_input_embeddings()(IDS).any()


def test_weights_are_here_only_while_their_layer_runs(llama: Path) -> None:
    where = spec(llama, "causal-lm")
    plan = plan_of(llama)
    layers = [member for group in plan.groups for member in group.members]
    present: list[int] = []
    with load_streamed(where, None, layers) as model, torch.no_grad():
        for layer in map(model.get_submodule, layers):
            layer.register_forward_hook(lambda *_: present.append(loaded(model, layers)))
        logits = model(input_ids=IDS).logits
        assert loaded(model, layers) == 0
    assert max(present) <= 1
    assert len(present) == len(layers)
    exact = load_model(where, None)(input_ids=IDS).logits
    torch.testing.assert_close(logits, exact, rtol=1e-5, atol=1e-5)


def loaded(model: Any, layers: list[str]) -> int:
    """How many of them have their weights."""
    weights = (model.get_submodule(name).weight for name in layers)
    return sum(weight.untyped_storage().nbytes() > 4 for weight in weights)
