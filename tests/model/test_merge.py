"""A merged model is an ordinary Hugging Face folder that answers as base and adapter do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from sealtune.errors import AdapterMismatchError, StorageError
from sealtune.job.sections import LoraSpec, SpfSpec, TuningSpec
from sealtune.model.compare import compare_logits
from sealtune.model.load import load_model, quiet
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import load_adapter, save_adapter
from sealtune.tuning.merge import merge_adapter
from sealtune.tuning.registry import sections
from sealtune.tuning.spf.apply import remove_spf
from sealtune.tuning.spf.tuner import Spf
from tests.float64 import as_near_as, distance, in_float64
from tests.model.test_export import fingerprint
from tests.model.test_load import spec
from tests.model.tiny import LABELS, batch_of, make_texts

LORA, SPF = LoraSpec(rank=4), SpfSpec(qkv=0.5, dense=0.5)


def silent(_: str) -> None:
    """Nobody is told."""


def make_adapter(base: Path, folder: Path, task: str, tuning: TuningSpec) -> Path:
    """An adapter whose every tensor has moved."""
    labels = len(LABELS) if task == "classification" else None
    model = apply_tuning(load_model(spec(base, task), labels), tuning, task, 1)
    source = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    save_adapter(folder, model, fingerprint(base, task, tuple(sections(tuning))))
    return folder


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize(
    "tuning",
    [TuningSpec(lora=LORA), TuningSpec(spf=SPF), TuningSpec(lora=LORA, spf=SPF)],
    ids=["lora", "spf", "both"],
)
def test_the_answers_stay(llama: Path, tmp_path: Path, task: str, tuning: TuningSpec) -> None:
    adapter = make_adapter(llama, tmp_path / "adapter", task, tuning)
    done = merge_adapter(adapter, tmp_path / "merged", say=silent)
    assert done.check.agreement == 1.0
    assert done.check.difference < 1e-4
    kinds = {
        "classification": AutoModelForSequenceClassification,
        "causal-lm": AutoModelForCausalLM,
    }
    assert done.loader == kinds[task].__name__
    loaded = load_adapter(adapter)
    batch = batch_of(loaded.task, make_texts(6, 4))
    kind: Any = AutoModelForSequenceClassification if task == "classification" else None
    with quiet():
        plain = (kind or AutoModelForCausalLM).from_pretrained(tmp_path / "merged")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        expected = loaded.task.logits(loaded.model, batch)
        found = loaded.task.logits(plain.eval(), batch)
    with torch.no_grad(), in_float64():
        exact = loaded.task.logits(loaded.model.double(), batch)
    assert as_near_as(found, expected, exact)
    assert len(tokenizer) == len(loaded.task.tokenizer)
    if task == "classification":
        assert plain.config.id2label == dict(enumerate(LABELS))
    base = load_model(spec(llama, task), len(LABELS) if kind else None)
    with torch.no_grad():
        before = loaded.task.logits(base, batch)
    assert distance(expected, before) > 1e-2 * float(expected.norm())


def test_a_merge_that_went_wrong_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(llama, tmp_path / "adapter", "causal-lm", TuningSpec(spf=SPF))
    monkeypatch.setattr(Spf, "merge", lambda _, model: remove_spf(model))
    with pytest.raises(AdapterMismatchError, match="otherwise than the live one"):
        merge_adapter(adapter, tmp_path / "merged", say=silent)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_in_the_way_is_left_alone(llama: Path, tmp_path: Path) -> None:
    adapter = make_adapter(llama, tmp_path / "adapter", "causal-lm", TuningSpec(spf=SPF))
    (tmp_path / "merged").mkdir()
    with pytest.raises(StorageError, match="already there"):
        merge_adapter(adapter, tmp_path / "merged", say=silent)


def test_an_adapter_that_replaces_other_modules_is_refused(llama: Path, tmp_path: Path) -> None:
    import json

    adapter = make_adapter(llama, tmp_path / "adapter", "causal-lm", TuningSpec(spf=SPF))
    content = json.loads((adapter / "spf_config.json").read_text())
    content["config"]["modules_to_save"] = ["model.embed_tokens"]
    (adapter / "spf_config.json").write_text(json.dumps(content))
    with pytest.raises(AdapterMismatchError, match=r"would replace model\.embed_tokens"):
        load_adapter(adapter)


def test_gross_differences_are_refused() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert compare_logits(logits, logits.clone()).difference == 0
    with pytest.raises(AdapterMismatchError):
        compare_logits(logits, -logits)
    with pytest.raises(AdapterMismatchError):
        compare_logits(logits, logits * float("nan"))
