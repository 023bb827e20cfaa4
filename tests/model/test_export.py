from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sealtune.errors import AdapterMismatchError, ModelError, StorageError
from sealtune.model.files import model_digest
from sealtune.model.load import quiet
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import evaluate
from sealtune.tuning.adapter import Fingerprint
from sealtune.tuning.folder import check_export, load_adapter, save_adapter
from tests.model.test_load import spec
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.test_training import run
from tests.model.tiny import LABELS, batch_of, make_llama, make_texts


def fingerprint(
    folder: Path, task: str = "classification", tuning: tuple[str, ...] = ("lora",)
) -> Fingerprint:
    return Fingerprint(
        tuning=tuning,
        base_model=str(folder),
        base_model_digest=model_digest(spec(folder)),
        job_id="ab" * 48,
        task=task,
        labels=() if task == "causal-lm" else LABELS,
        template="{text}",
        max_tokens=32,
        seed=7,
        rounds=1,
        versions={"sealtune": "0"},
    )


@pytest.fixture(scope="module")
def trained(llama: Path) -> Any:
    model = adapted(llama)
    run(model, task_of(llama))
    return model.eval()


@pytest.fixture
def written(llama: Path, trained: Any, tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", trained, fingerprint(llama))
    return tmp_path / "adapter"


def test_plain_peft_loads_it_and_gives_the_same_logits(
    llama: Path, trained: Any, written: Path
) -> None:
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=len(LABELS))
        model = PeftModel.from_pretrained(base, written).eval()
    batch = batch_of(task_of(llama), make_texts(5, 0))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, trained(**inputs).logits)


def test_language_model_adapter_loads_with_plain_peft(llama: Path, tmp_path: Path) -> None:
    live = adapted(llama, task="causal-lm", layers=(1,), targets=("q_proj", "up_proj"))
    run(live, task_of(llama, "causal-lm"))
    save_adapter(tmp_path / "adapter", live.eval(), fingerprint(llama, "causal-lm"))
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(llama)
        model = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, live(input_ids=ids).logits)


def test_loaded_adapter_answers_like_the_live_one(trained: Any, written: Path) -> None:
    loaded = load_adapter(written)
    texts = make_texts(20, 9)
    assert loaded.fingerprint.labels == LABELS
    data = loaded.task.encode(texts)
    live = evaluate(trained, loaded.task, data, batch_size=8)
    assert evaluate(loaded.model, loaded.task, data, batch_size=8) == live


# without the weights of masked layers, too: they are read while they are needed
LAYERS = (
    (),
    [f"model.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in "qkvo"]
    + [f"model.layers.{i}.mlp.{name}_proj" for i in range(2) for name in ("gate", "up", "down")],
)


@pytest.mark.parametrize("elsewhere", LAYERS, ids=["whole", "streamed"])
def test_reload_check_passes_and_measures(
    llama: Path, trained: Any, written: Path, elsewhere: Sequence[str]
) -> None:
    batch = batch_of(task_of(llama), make_texts(8, 0))
    check = check_export(written, trained, batch, elsewhere=elsewhere)
    assert check.difference < 1e-5
    assert check.agreement == 1


@pytest.mark.parametrize("elsewhere", LAYERS, ids=["whole", "streamed"])
def test_reload_check_finds_a_useless_adapter(
    llama: Path, trained: Any, written: Path, elsewhere: Sequence[str]
) -> None:
    batch = batch_of(task_of(llama), make_texts(8, 0))
    changed = adapted(llama)
    load_trainable_state(changed, {n: t * 1.5 for n, t in trainable_state(trained).items()})
    with pytest.raises(AdapterMismatchError, match="differs from the live one"):
        check_export(written, changed.eval(), batch, elsewhere=elsewhere)
    broken = adapted(llama)
    load_trainable_state(broken, trainable_state(trained))
    with torch.no_grad():  # same adapter, but the live base is not the public one
        broken.get_input_embeddings().weight.copy_(
            broken.get_input_embeddings().weight.flip(0).clone()
        )
    with pytest.raises(AdapterMismatchError, match="answers otherwise"):
        check_export(written, broken.eval(), batch, elsewhere=elsewhere)


def test_another_base_model_is_refused(written: Path, tmp_path: Path) -> None:
    other = make_llama(tmp_path / "other", seed=99)
    with pytest.raises(AdapterMismatchError, match="another base model"):
        load_adapter(written, base=str(other))


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "nan"])
def test_tensors_that_do_not_fit_are_refused(written: Path, fault: str) -> None:
    file = written / "adapter_model.safetensors"
    state = load_file(file)
    name = next(n for n in state if "lora_A" in n)
    if fault == "missing":
        del state[name]
    elif fault == "unknown":
        state["base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"] = state[name] * 1
    elif fault == "shape":
        state[name] = state[name][:, :-1].contiguous()
    else:
        state[name][0, 0] = float("nan")
    save_file(state, file)
    with pytest.raises(AdapterMismatchError):
        load_adapter(written)


def test_cut_file_is_refused(written: Path) -> None:
    file = written / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AdapterMismatchError, match="damaged"):
        load_adapter(written)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_lora_weights", "pissa"),  # would take a part out of the base model's weights
        ("modules_to_save", ["score", "embed_tokens"]),
        ("use_qalora", True),
        ("peft_type", "IA3"),
        ("unheard_of", 1),
    ],
)
def test_settings_that_no_job_makes_are_refused(written: Path, key: str, value: Any) -> None:
    file = written / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(AdapterMismatchError, match=f"sets {key}, which no job does"):
        load_adapter(written)


@pytest.mark.parametrize("text", ["[]", "{}", "7", '"r"', "{", '{"target_modules": 3}'])
def test_settings_that_are_none_are_refused(written: Path, text: str) -> None:
    (written / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        load_adapter(written)


@pytest.mark.parametrize("name", ["sealtune.json", "adapter_config.json"])
def test_missing_file_is_named(written: Path, name: str) -> None:
    (written / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_adapter(written)


def test_damaged_fingerprint_is_refused(written: Path) -> None:
    (written / "sealtune.json").write_text('{"format": 2}')
    with pytest.raises(ModelError, match="damaged"):
        load_adapter(written)


def test_config_is_plain_and_names_what_is_trained(written: Path) -> None:
    config = json.loads((written / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
    assert config["inference_mode"] is True
    assert config["task_type"] == "SEQ_CLS"
    assert config["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]


def test_writing_again_replaces_and_leaves_no_trace(
    llama: Path, trained: Any, written: Path
) -> None:
    save_adapter(written, trained, fingerprint(llama))
    assert sorted(p.name for p in written.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "sealtune.json",
    ]  # fmt: skip
    assert [p.name for p in written.parent.iterdir()] == ["adapter"]


def test_a_folder_with_other_files_is_left_alone(llama: Path, trained: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="in the way"):
        save_adapter(tmp_path / "mine", trained, fingerprint(llama))
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_leaves_the_old_adapter(
    llama: Path, trained: Any, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shutil.copytree(written, written.parent.parent / "before", dirs_exist_ok=True)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sealtune.tuning.folder.os.fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        save_adapter(written, trained, fingerprint(llama))
    assert [p.name for p in written.parent.iterdir()] == ["adapter"]
    for file in written.iterdir():
        assert file.read_bytes() == (before / file.name).read_bytes()
