"""Two tuners that are not sealtune's, whole in this file: one of layers, one of a prefix.

Nothing else knows of them: trained, exported, read back, merged or not, planned and masked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from pydantic import Field
from safetensors.torch import load
from torch import Tensor, nn

from sealtune.errors import AdapterMismatchError, ConfigError, ModelError
from sealtune.job.first_values import first_adapter
from sealtune.job.plan import FirstValue
from sealtune.job.sections import Section, TuningSpec
from sealtune.model.load import load_model, quiet
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import load_trainable_state, trainable_state, write_tensors
from sealtune.model.training import evaluate
from sealtune.offload.unmasked import use_int8_weights
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning, first_values
from sealtune.tuning.folder import check_export, load_adapter, save_adapter
from sealtune.tuning.head import fresh_head
from sealtune.tuning.merge import merge_adapter
from sealtune.tuning.registry import TUNERS, Registered, sections
from sealtune.tuning.tuner import Context, Tuner
from tests.model.test_export import fingerprint
from tests.model.test_load import spec
from tests.model.test_tasks import task_of
from tests.model.test_training import run
from tests.model.tiny import LABELS, batch_of, make_texts
from tests.offload.test_training import make_job, session_for


class ScaleSpec(Section):
    """``[tuning.scales]``: each output of a linear layer times a number (after IA3)."""

    target: str = "o_proj"
    layers: tuple[int, ...] | None = None


class PrefixSpec(Section):
    """``[tuning.prefix]``: keys and values before every text."""

    length: int = Field(default=4, ge=1)


class Tuning(TuningSpec):
    """``[tuning]`` with both."""

    scales: ScaleSpec | None = None
    prefix: PrefixSpec | None = None


class Scaled(nn.Module):
    """``s * (W x)``, s [N] from ones."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.base_layer = layer
        self.scale = nn.Parameter(torch.ones(layer.out_features, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return self.scale * self.base_layer(x)


class Scales(Tuner):
    name = "scales"

    def apply(self, model: Any, settings: ScaleSpec, context: Context) -> Any:
        for number, block in enumerate(find_blocks(model)[1]):
            if context.layers is None or number in context.layers:
                for name, module in list(block.named_modules()):
                    if name.endswith(settings.target):
                        block.set_submodule(name, Scaled(module))
        if context.head:
            fresh_head(model, context.seed)
        return model

    def first_value(self, name: str, shape: tuple[int, ...], settings: Any) -> FirstValue | None:
        return FirstValue(law="constant", scale=1) if name.endswith(".scale") else None

    def write(self, model: Any, base_model: str) -> dict[str, bytes]:
        paths = [name for name, module in model.named_modules() if isinstance(module, Scaled)]
        return {
            "scales.json": json.dumps(paths).encode(),
            "scales.safetensors": write_tensors(trainable_state(model)),
        }

    def install(self, model: Any, files: Mapping[str, bytes], source: str) -> Any:
        for path in json.loads(files["scales.json"]):
            model.set_submodule(path, Scaled(model.get_submodule(path)))
        if hasattr(model, "score"):
            fresh_head(model, 0)
        load_trainable_state(model, load(files["scales.safetensors"]), source)
        return model

    def merge(self, model: Any) -> Any:
        for path, module in list(model.named_modules()):
            if isinstance(module, Scaled):
                with torch.no_grad():
                    module.base_layer.weight.mul_(module.scale[:, None])
                model.set_submodule(path, module.base_layer)
        return model


class Prefix(Tuner):
    name = "prefix"
    stays_apart = "a prefix is no weight of the model"

    def apply(self, model: Any, settings: PrefixSpec, context: Context) -> Any:
        kind = "SEQ_CLS" if context.task == "classification" else "CAUSAL_LM"
        config = PrefixTuningConfig(num_virtual_tokens=settings.length, task_type=kind)
        with quiet():
            return get_peft_model(model, config)

    def first_value(self, name: str, shape: tuple[int, ...], settings: Any) -> FirstValue | None:
        return FirstValue(law="normal", scale=0.1)

    def write(self, model: Any, base_model: str) -> dict[str, bytes]:
        config = model.peft_config["default"]
        settings = {"task": config.task_type, "length": config.num_virtual_tokens}
        return {
            "prefix.json": json.dumps(settings).encode(),
            "prefix.safetensors": write_tensors(trainable_state(model)),
        }

    def install(self, model: Any, files: Mapping[str, bytes], source: str) -> Any:
        settings = json.loads(files["prefix.json"])
        task = "classification" if settings["task"] == "SEQ_CLS" else "causal-lm"
        model = self.apply(model, PrefixSpec(length=settings["length"]), Context(task, 0))
        load_trainable_state(model, load(files["prefix.safetensors"]), source)
        return model


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    scales = Registered(("scales.json", "scales.safetensors"), Scales)
    monkeypatch.setitem(TUNERS, "scales", scales)
    prefix = Registered(("prefix.json", "prefix.safetensors"), Prefix)
    monkeypatch.setitem(TUNERS, "prefix", prefix)
    return


TUNINGS = {"scales": Tuning(scales=ScaleSpec()), "prefix": Tuning(prefix=PrefixSpec())}
PEFT_WARNS = "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"


def tuned(llama: Path, name: str, task: str) -> Any:
    model = load_model(spec(llama, task), len(LABELS))
    return apply_tuning(model, TUNINGS[name], task, 7)


@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.parametrize("task", ["classification", "label-words"])
@pytest.mark.filterwarnings(PEFT_WARNS)
def test_it_is_trained_written_and_read_back(
    llama: Path, tmp_path: Path, name: str, task: str
) -> None:
    assert list(sections(TUNINGS[name])) == [name]
    model, tasks = tuned(llama, name, task), task_of(llama, task)
    first = {n: t.clone() for n, t in trainable_state(model).items()}
    drawn = first_adapter(
        first_values(model, TUNINGS[name]), {n: tuple(t.shape) for n, t in first.items()}, 7
    )
    assert drawn.keys() == first.keys()
    assert all(np.array_equal(t.numpy(), drawn[n]) for n, t in first.items())
    texts = tasks.encode(make_texts(60, 3))
    before = evaluate(model, tasks, texts, batch_size=32)
    for number in (1, 2, 3):
        run(model, tasks, round=number)
    assert evaluate(model, tasks, texts, batch_size=32).loss < before.loss
    folder, live = tmp_path / "adapter", model.eval()
    save_adapter(folder, live, fingerprint(llama, task, (name,)))
    batch = batch_of(tasks, make_texts(6, 4))
    assert check_export(folder, live, batch).difference == 0
    loaded = load_adapter(folder)
    assert not any(p.requires_grad for p in loaded.model.parameters())
    with torch.no_grad():
        assert torch.equal(tasks.logits(loaded.model, batch), tasks.logits(live, batch))
    weights = folder / TUNERS[name].files[-1]
    weights.write_bytes(write_tensors(dict(list(first.items())[1:])))
    with pytest.raises(AdapterMismatchError, match="lacks 1 tensors"):
        load_adapter(folder)


@pytest.mark.filterwarnings(PEFT_WARNS)
def test_it_is_merged_or_refuses_by_name(llama: Path, tmp_path: Path) -> None:
    for name in TUNINGS:
        model = tuned(llama, name, "classification")
        run(model, task_of(llama))
        save_adapter(tmp_path / name, model, fingerprint(llama, tuning=(name,)))
    done = merge_adapter(tmp_path / "scales", tmp_path / "merged", say=lambda _: None)
    assert done.check.agreement == 1
    with pytest.raises(ModelError, match="adapter of prefix cannot be merged: a prefix is no"):
        merge_adapter(tmp_path / "prefix", tmp_path / "none", say=lambda _: None)
    assert not (tmp_path / "none").exists()


def test_layers_that_run_elsewhere_are_refused_with_its_key(llama: Path) -> None:
    early = Tuning(scales=ScaleSpec(layers=(0,)))
    model = load_model(spec(llama, "label-words"), None)
    with pytest.raises(ConfigError, match=r"tuning\.scales\.layers: names block 0"):
        apply_tuning(model, early, "label-words", 1, first_block=1)
    tuned_top = apply_tuning(model, TUNINGS["scales"], "label-words", 1, first_block=1)
    assert list(trainable_state(tuned_top)) == ["model.layers.1.self_attn.o_proj.scale"]


def test_it_is_planned_and_masked(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A masked step's gradient is that of the same int8 weights unmasked."""
    monkeypatch.setenv("SEALTUNE_CACHE", str(tmp_path))
    job = make_job(llama).model_copy(update={"tuning": TUNINGS["scales"]})
    plan = make_plan(job, None)
    assert {law.scale for law in plan.first_values.values()} == {1.0}
    models = [apply_tuning(load_model(job.model, None), job.tuning, "causal-lm", 1) for _ in "ab"]
    use_int8_weights(models[1], plan)
    session = session_for(job, plan)
    session.install(models[0])
    ids = torch.randint(2, 400, (4, 16), generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in models:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    masked, plain = gradients
    assert float((masked - plain).norm() / plain.norm()) < 2e-4


def test_files_of_two_adapters_are_not_mixed(llama: Path, tmp_path: Path) -> None:
    """A folder that lost a tuner's files, or won one's, is no adapter."""
    model = tuned(llama, "scales", "label-words")
    save_adapter(tmp_path / "a", model, fingerprint(llama, "label-words", ("scales",)))
    (tmp_path / "a" / "spf_config.json").write_text("{}")
    with pytest.raises(AdapterMismatchError, match=r"holds spf_config\.json, of which"):
        load_adapter(tmp_path / "a")
    (tmp_path / "a" / "spf_config.json").unlink()
    (tmp_path / "a" / "scales.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no scales\.safetensors"):
        load_adapter(tmp_path / "a")


def test_an_unknown_tuner_is_named(llama: Path, tmp_path: Path) -> None:
    model = tuned(llama, "scales", "label-words")
    save_adapter(tmp_path / "a", model, fingerprint(llama, "label-words", ("scales",)))
    text = (tmp_path / "a" / "sealtune.json").read_text().replace("scales", "magic")
    (tmp_path / "a" / "sealtune.json").write_text(text)
    with pytest.raises(ModelError, match="no tuner 'magic'; known: lora, ptuning, spf"):
        load_adapter(tmp_path / "a")
