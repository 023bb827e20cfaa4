from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.spec import ModelSpec
from sealtune.model.files import model_digest
from sealtune.model.load import load_config, load_model, load_tokenizer
from tests.model.tiny import make_tokenizer


def spec(path: Path, task: str = "classification") -> ModelSpec:
    return ModelSpec.model_validate({"path": str(path), "task": task})


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def test_classification_model_is_frozen_float32_with_a_head(llama: Path) -> None:
    model = load_model(spec(llama), 3)
    assert type(model).__name__ == "LlamaForSequenceClassification"
    assert model.score.weight.shape == (3, 64)
    assert model.config.pad_token_id == 0
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("task", ["label-words", "causal-lm"])
def test_other_tasks_use_the_language_model(llama: Path, task: str) -> None:
    assert type(load_model(spec(llama, task), None)).__name__ == "LlamaForCausalLM"


def test_meta_model_has_the_same_shapes_and_no_weights(llama: Path) -> None:
    real, meta = load_model(spec(llama), 3), load_model(spec(llama), 3, meta=True)
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    assert {n: p.shape for n, p in real.named_parameters()} == {
        n: p.shape for n, p in meta.named_parameters()
    }


def test_loading_prints_nothing(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(spec(llama), 3)
    load_tokenizer(spec(llama))
    assert capfd.readouterr() == ("", "")


def test_tokenizer_pads_right_and_gets_a_pad_token(llama: Path, tmp_path: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path)
    make_tokenizer(tmp_path, pad=None)
    tokenizer = load_tokenizer(spec(tmp_path))
    assert tokenizer.pad_token == "<end>"
    assert tokenizer.padding_side == "right"


def test_digest_follows_every_file_that_matters_and_no_other(copy: Path) -> None:
    before = model_digest(spec(copy))
    (copy / "README.md").write_text("words")
    assert model_digest(spec(copy)) == before
    (copy / "tokenizer_config.json").write_text("{}")
    changed = model_digest(spec(copy))
    assert changed != before
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copy / "model.safetensors")
    assert model_digest(spec(copy)) not in {before, changed}


def test_encoder_is_refused(copy: Path) -> None:
    config = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="not a decoder-only"):
        load_model(spec(copy), 3)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma", "use_bidirectional_attention": True},
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        {"model_type": "gemma4_text", "use_bidirectional_attention": "all"},
        {"model_type": "xlm"},
        {"model_type": "xlnet"},
        {"model_type": "bert-generation"},
    ],
)
def test_what_attends_to_the_padding_behind_a_text_is_refused(
    copy: Path, config: dict[str, object]
) -> None:
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="not a decoder-only"):
        load_config(spec(copy))


def test_encoder_decoder_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UnsupportedModelError, match="not a decoder-only"):
        load_model(spec(copy), 3)


def test_unknown_architecture_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "no-such-thing"}))
    with pytest.raises(UnsupportedModelError, match="cannot read the model configuration"):
        load_model(spec(copy), 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "holds neither model.safetensors nor"),
    ],
)
def test_missing_file_is_named(copy: Path, name: str, text: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=text):
        load_model(spec(copy), 3)


def test_missing_tokenizer_is_named(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(spec(copy))


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        load_model(spec(tmp_path / "nothing"), 3)


def test_cut_weights_are_refused(copy: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(spec(copy), 3)


def test_lacking_tensors_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, such as model\.layers\.1\.mlp\.up_proj"):
        load_model(spec(copy), 3)


def test_missing_shard_is_named(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "model-2.safetensors")
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    )
    with pytest.raises(ModelError, match=r"lacks model-1\.safetensors"):
        load_model(spec(copy), 3)


def test_a_part_outside_the_digested_folder_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    (folder / "x").mkdir()
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "x" / "w.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "x/w.safetensors")}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside its folder"):
        load_model(ModelSpec(path=str(folder), task="causal-lm"), None)


def test_an_adapter_file_that_would_redirect_loading_is_refused(
    llama: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama, folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ModelError, match="an adapter's folder"):
        load_model(ModelSpec(path=str(folder), task="causal-lm"), None)
