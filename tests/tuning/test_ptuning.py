"""P-tuning v2 against a prefix put in by hand, and against plain PEFT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load, save
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from sealtune.errors import AdapterMismatchError, DataError, ModelError, UnsupportedModelError
from sealtune.job.sections import PtuningSpec, TuningSpec
from sealtune.model.cut import CutEntry
from sealtune.model.fit import fit_texts
from sealtune.model.load import load_config, load_model, quiet
from sealtune.model.partial import load_part
from sealtune.model.samples import Contents, Sample, Samples
from sealtune.model.texts import padded
from sealtune.model.trainable import trainable_state
from sealtune.model.training import evaluate
from sealtune.owner.bottom import Bottom
from sealtune.plan.planner import make_plan
from sealtune.tuning.adapter import adapter_files
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import check_export, load_adapter, save_adapter
from sealtune.tuning.inference import classify, continue_text
from sealtune.tuning.merge import merge_adapter
from sealtune.tuning.ptuning import FAMILIES as KNOWN
from tests.float64 import in_float64
from tests.model.families import FAMILIES, make_family
from tests.model.test_cut import split_job
from tests.model.test_export import fingerprint
from tests.model.test_load import spec
from tests.model.test_tasks import task_of
from tests.model.test_training import run
from tests.model.tiny import LABELS, Text, batch_of, ids_of, make_texts
from tests.offload.test_training import make_job
from tests.tuning.prefix_oracle import by_hand, prefix_of

TOKENS, CUT = 5, 1
WINDOW = {"sliding_window": 32}  # as far as texts and virtual tokens of these tests reach
WINDOWED = ("mistral", "gemma2", "gemma3", "cohere2")
TAKEN = [name for name, (kind, _) in FAMILIES.items() if kind in KNOWN]
CLASSIFIERS = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
TEXTS = make_texts(4, 3)
FolderOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a family's model, made once; attention with a window reaches 32 tokens."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_family(name, tmp_path_factory.mktemp(name) / "model")
            if name in WINDOWED:
                config = made[name] / "config.json"
                config.write_text(json.dumps(json.loads(config.read_text()) | WINDOW))
        return made[name]

    return folder


def tuning(**settings: Any) -> TuningSpec:
    return TuningSpec(ptuning=PtuningSpec(virtual_tokens=TOKENS, **settings))


def tuned(folder: Path, task: str, *, first: int = 0, **settings: Any) -> Any:
    """A model with a prefix that counts: every trainable tensor is drawn anew, and large."""
    labels = len(LABELS) if task == "classification" else None
    model = load_model(spec(folder, task), labels)
    model = apply_tuning(model, tuning(**settings), task, 1, first_block=first)
    draw(model)
    return model


def draw(model: Any) -> None:
    source = torch.Generator().manual_seed(2)
    for tensor in trainable_state(model).values():
        tensor.copy_(torch.randint(-32, 33, tensor.shape, generator=source) / 16)  # in any type


def prefix(model: Any) -> Tensor:
    encoder = model.prompt_encoder
    heads = getattr(model.config, "num_key_value_heads", None) or model.config.num_attention_heads
    blocks = model.config.num_hidden_layers - encoder.first
    return prefix_of(encoder.table().detach(), heads, blocks)


def expected(model: Any, folder: Path, task: str, batch: Any) -> Tensor:
    """Logits by hand, [B, C] or [B, T, V]: a plain model, one query at a time."""
    labels = len(LABELS) if task == "classification" else None
    plain = load_model(spec(folder, task), labels).to(torch.get_default_dtype())
    if labels:
        plain.score.weight.data.copy_(model.score.weight)
    encoder = model.prompt_encoder
    start = 0 if encoder.first else TOKENS
    positions = torch.arange(start, start + batch.input_ids.shape[1])[None]
    with by_hand(plain, prefix(model), encoder.first), torch.no_grad():
        logits: Tensor = plain(
            input_ids=batch.input_ids, position_ids=positions, use_cache=False
        ).logits
    return logits


@pytest.mark.parametrize("name", TAKEN)
def test_logits_are_those_of_a_prefix_put_in_by_hand(folder_of: FolderOf, name: str) -> None:
    folder = folder_of(name)
    task = task_of(folder, "causal-lm", labels=())
    with in_float64(), torch.no_grad():
        model = tuned(folder, "causal-lm").double()
        batch = batch_of(task, TEXTS)
        inside = batch.attention_mask.bool()
        want = expected(model, folder, "causal-lm", batch)[inside]
        got = task.logits(model, batch)
    assert float((got - want).abs().max()) < 1e-9 * float(want.abs().max())
    without = task.logits(load_model(spec(folder, "causal-lm"), None), batch)
    assert float((without - want).abs().max()) > 0.1 * float(want.abs().max())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_head_reads_the_last_token_of_each_text(folder_of: FolderOf, name: str) -> None:
    folder = folder_of(name)
    task = task_of(folder)
    with in_float64(), torch.no_grad():
        model = tuned(folder, "classification").double()
        batch = batch_of(task, TEXTS)
        want = expected(model, folder, "classification", batch)
        got = task.scores(model, batch)
        alone = torch.cat([task.scores(model, batch_of(task, [text])) for text in TEXTS])
    assert len(set(batch.lengths.tolist())) > 1  # some rows are padded
    assert float((got - want).abs().max()) < 1e-9
    assert float((got - alone).abs().max()) < 1e-9


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_label_words_are_read_behind_the_text(folder_of: FolderOf, name: str) -> None:
    folder = folder_of(name)
    task = task_of(folder, "label-words")
    with in_float64(), torch.no_grad():
        model = tuned(folder, "label-words").double()
        batch = batch_of(task, TEXTS)
        logits = expected(model, folder, "label-words", batch)
        got = task.scores(model, batch)
    want = logits[torch.arange(len(TEXTS)), batch.lengths - 1][:, task.words]  # type: ignore[attr-defined]
    assert float((got - want).abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("name", "task", "projection"),
    [(name, "causal-lm", name in CLASSIFIERS) for name in TAKEN]
    + [(name, "classification", name == "gpt2") for name in CLASSIFIERS],
)
def test_plain_peft_loads_the_files(
    folder_of: FolderOf, tmp_path: Path, name: str, task: str, projection: bool
) -> None:
    folder = folder_of(name)
    kind = AutoModelForCausalLM if task == "causal-lm" else AutoModelForSequenceClassification
    model = tuned(folder, task, projection=projection, **({"hidden": 12} if projection else {}))
    save_adapter(tmp_path / "adapter", model, fingerprint(folder, task, ("ptuning",)))
    tasks = task_of(folder, task, labels=LABELS if task == "classification" else ())
    batch = batch_of(tasks, TEXTS)
    more = {"num_labels": len(LABELS), "pad_token_id": 0} if task == "classification" else {}
    with quiet(), torch.no_grad():
        base = kind.from_pretrained(folder, **more)
        theirs = tasks.logits(PeftModel.from_pretrained(base, tmp_path / "adapter"), batch)
        ours = tasks.logits(model, batch)
        again = tasks.logits(load_adapter(tmp_path / "adapter").model, batch)
    assert torch.equal(ours, again)
    assert torch.equal(ours, theirs)
    assert check_export(tmp_path / "adapter", model, batch).difference == 0


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in TAKEN])
def test_a_family_whose_attention_was_not_tried_is_refused_by_name(
    folder_of: FolderOf, name: str
) -> None:
    job = make_job(folder_of(name), tuning=tuning())
    with pytest.raises(
        UnsupportedModelError, match=rf"\({FAMILIES[name][0]}\) attends to a prefix"
    ):
        make_plan(job, None)


@pytest.mark.parametrize("name", [*WINDOWED, "gpt2"])
def test_a_text_that_would_not_see_its_prefix_is_refused(folder_of: FolderOf, name: str) -> None:
    """A window hides the virtual tokens from the end of a text; positions run out."""
    folder = folder_of(name)
    config, task = load_config(spec(folder, "causal-lm")), task_of(folder, max_tokens=64)
    texts = [Text("rash " * (20 if name == "gpt2" else 5), 0)]
    most, words = (64, "64 positions") if name == "gpt2" else (32, "attention reaches 32")
    tokens = most + 1 - padded(task.encode(texts).lengths[0])
    with pytest.raises(DataError, match=rf"behind {tokens} virtual ones, but .*{words}"):
        fit_texts(task, config, texts, virtual_tokens=tokens)
    fit_texts(task, config, texts, virtual_tokens=tokens - 1)
    fit_texts(task, config, texts)


@pytest.mark.parametrize("name", ["mistral", "gpt2"])
def test_so_is_a_longer_text_than_it_was_trained_with(
    folder_of: FolderOf, tmp_path: Path, name: str
) -> None:
    folder = folder_of(name)
    model = tuned(folder, "label-words")
    about = fingerprint(folder, "label-words", ("ptuning",)).model_copy(update={"max_tokens": 64})
    save_adapter(tmp_path / "adapter", model, about)
    loaded = load_adapter(tmp_path / "adapter")
    assert loaded.virtual_tokens == TOKENS
    assert len(classify(loaded, ["rash"])[0]) == len(LABELS)
    with pytest.raises(DataError, match=rf"behind {TOKENS} virtual ones, but"):
        classify(loaded, ["rash", "rash " * 60])


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_behind_a_cut_only_the_servers_blocks_have_a_prefix(
    folder_of: FolderOf, tmp_path: Path, name: str
) -> None:
    """The parts together, the whole model with the written adapter, and both by hand."""
    folder = folder_of(name)
    where, task = spec(folder, "label-words"), task_of(folder, "label-words")
    with in_float64(), torch.no_grad():
        bottom = Bottom(load_part(where, None, CUT, "bottom", dtype=torch.float64), CUT)
        top = load_part(where, None, CUT, "top").double()
        entry = CutEntry(top, CUT)
        top = apply_tuning(top, tuning(), "label-words", 1, first_block=CUT)
        draw(top)
        sent, samples = [], []
        for number, text in enumerate(TEXTS):
            ids = torch.tensor(ids_of(task, text.text))
            sent.append(Contents(bottom(ids[None], torch.ones_like(ids)[None])[0], None))
            samples.append(Sample("north", number, len(ids), text.label))
        data = Samples(samples, lambda sample: sent[sample.number], entry, task.pad_id)
        through = task.scores(top, data.batch(range(len(samples))))
    top.prompt_encoder.float()  # files hold float32, of which the prefix was drawn
    save_adapter(tmp_path / "adapter", top, fingerprint(folder, "label-words", ("ptuning",)))
    with in_float64(), torch.no_grad():
        whole = load_adapter(tmp_path / "adapter").model.double()
        batch = batch_of(task, TEXTS)
        logits = expected(whole, folder, "label-words", batch)
        got = task.scores(whole, batch)
    want = logits[torch.arange(len(TEXTS)), batch.lengths - 1][:, task.words]  # type: ignore[attr-defined]
    assert float((got - want).abs().max()) < 1e-9
    assert float((through - want).abs().max()) < 1e-9
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()  # PEFT would misread it


def test_the_plan_of_a_split_job_keeps_the_prefix_in_the_enclave(deep_llama: Path) -> None:
    job = split_job(spec(deep_llama, "label-words"))
    plan = make_plan(job.model_copy(update={"tuning": tuning(projection=True)}), None)
    placed = {m.name: m.placement for m in plan.modules if "prompt_encoder" in m.name}
    assert len(placed) == 4
    assert set(placed.values()) == {"enclave"}
    assert plan.trainable["prompt_encoder.transform.2.bias"] == (2 * 2 * 32,)  # two blocks


@pytest.mark.parametrize("first", [0, CUT])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_a_continuation_is_the_greedy_one(
    folder_of: FolderOf, tmp_path: Path, name: str, first: int
) -> None:
    """With transformers' cache, against one forward pass for each token; also of a lone token."""
    folder = folder_of(name)
    model = tuned(folder, "causal-lm", first=first)
    save_adapter(tmp_path / "adapter", model, fingerprint(folder, "causal-lm", ("ptuning",)))
    loaded = load_adapter(tmp_path / "adapter")
    for text in ("x", "acute rash of the"):
        ids = ids_of(task_of(folder), text)
        start, longer = len(ids), list(ids)
        for _ in range(12):
            batch = type("Ids", (), {"input_ids": torch.tensor([longer])})()
            logits = expected(loaded.model, folder, "causal-lm", batch)
            longer.append(int(logits[0, -1].argmax()))
            if longer[-1] == loaded.task.tokenizer.eos_token_id:
                break
        tokenizer = loaded.task.tokenizer
        want = tokenizer.decode(longer[start:], skip_special_tokens=True)
        assert continue_text(loaded, text, tokens=12) == want


@pytest.mark.parametrize("first", [0, CUT])
def test_generation_without_a_cache_is_the_same(llama: Path, first: int) -> None:
    """transformers hands the last step's cache on all the same, beside the whole text."""
    model = tuned(llama, "causal-lm", first=first)
    ids = torch.tensor([[5, 9, 7]])
    more = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 10}
    with torch.no_grad():
        kept, anew = (model.generate(ids, use_cache=keep, **more) for keep in (True, False))
    assert torch.equal(kept, anew)


@pytest.mark.parametrize("projection", [False, True])
def test_a_file_that_is_not_the_live_prefix_is_found(
    llama: Path, tmp_path: Path, projection: bool
) -> None:
    model = tuned(llama, "causal-lm", projection=projection)
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, "causal-lm", ("ptuning",)))
    batch = batch_of(task_of(llama, "causal-lm", labels=()), TEXTS)
    check_export(tmp_path / "adapter", model, batch)
    name = "transform.0.bias" if projection else "embedding.weight"
    with torch.no_grad():
        model.prompt_encoder.get_parameter(name).flatten()[0] += 1e-3
    with pytest.raises(AdapterMismatchError, match="differs from the live one"):
        check_export(tmp_path / "adapter", model, batch)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("task", ["classification", "label-words", "causal-lm"])
def test_it_learns(llama: Path, task: str, projection: bool) -> None:
    labels = len(LABELS) if task == "classification" else None
    model = load_model(spec(llama, task), labels)
    model = apply_tuning(model, tuning(projection=projection), task, 1)
    tasks = task_of(llama, task)
    texts = tasks.encode(make_texts(60, 3))
    before = evaluate(model, tasks, texts, batch_size=32)
    for number in (1, 2, 3):
        result = run(model, tasks, round=number)
        assert result.trained_moved
        assert result.frozen_unchanged
    assert evaluate(model, tasks, texts, batch_size=32).loss < 0.99 * before.loss


def test_first_values_follow_from_the_seed(llama: Path) -> None:
    def first(seed: int) -> dict[str, Tensor]:
        model = load_model(spec(llama, "causal-lm"), None)
        return trainable_state(apply_tuning(model, tuning(projection=True), "causal-lm", seed))

    one, two, other = first(5), first(5), first(6)
    assert all(torch.equal(one[name], two[name]) for name in one)
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert moved == {name for name in one if not name.endswith(".bias")}


def test_merging_is_refused_with_the_reason(llama: Path, tmp_path: Path) -> None:
    model = tuned(llama, "causal-lm")
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, "causal-lm", ("ptuning",)))
    with pytest.raises(ModelError, match="cannot be merged: its virtual tokens are keys and val"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged", say=lambda _: None)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_layers", 1),  # the last block would go without
        ("num_attention_heads", 4),
        ("prefix_projection", True),
        ("num_virtual_tokens", 4000),
        ("num_virtual_tokens", "5"),
        ("base_model_revision", "x"),
        ("peft_type", "P_TUNING"),
    ],
)
def test_settings_that_no_job_makes_are_refused(
    llama: Path, tmp_path: Path, key: str, value: Any
) -> None:
    model = tuned(llama, "causal-lm")
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, "causal-lm", ("ptuning",)))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(AdapterMismatchError):
        load_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("change", [{"first_block": 0}, {"first_block": 2}, {"more": 1}])
@pytest.mark.parametrize("first", [CUT])
def test_a_prefix_of_other_blocks_is_refused(
    llama: Path, tmp_path: Path, change: dict[str, Any], first: int
) -> None:
    model = tuned(llama, "causal-lm", first=first)
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, "causal-lm", ("ptuning",)))
    path = tmp_path / "adapter" / "ptuning_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AdapterMismatchError, match="not of a model with 2 blocks"):
        load_adapter(tmp_path / "adapter")


def test_tensors_that_do_not_fit_are_refused(llama: Path, tmp_path: Path) -> None:
    model = tuned(llama, "classification")
    files = adapter_files(model, fingerprint(llama, tuning=("ptuning",)))
    tensors = load(files["adapter_model.safetensors"])
    assert sorted(tensors) == ["base_model.score.weight", "prompt_embeddings"]
    folder = tmp_path / "adapter"
    head = tensors["base_model.score.weight"]
    for changed in (
        {"prompt_embeddings": tensors["prompt_embeddings"]},
        {**tensors, "prompt_embeddings": tensors["prompt_embeddings"][:, 1:].contiguous()},
        {**tensors, "score.weight": head.clone()},
    ):
        save_adapter(folder, model, fingerprint(llama, tuning=("ptuning",)))
        (folder / "adapter_model.safetensors").write_bytes(save(changed))
        with pytest.raises(AdapterMismatchError):
            load_adapter(folder)


def test_a_call_that_would_lose_its_mask_is_refused(llama: Path) -> None:
    model, ids = tuned(llama, "causal-lm"), torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ModelError, match="without a name"):
        model(ids, torch.ones_like(ids))


def test_what_is_tuned_taints_the_first_block(llama: Path) -> None:
    """With ``protect = "adapter"`` no block runs plain, as block 0 attends to the prefix."""
    job = make_job(llama, tuning=tuning(), protection={"protect": "adapter"})
    plan = make_plan(job, None)
    assert plan.prefix_blocks == 0
    assert plan.trainable == {"prompt_encoder.embedding.weight": (TOKENS, 2 * 2 * 32)}
    backward = {group.name: group.backward for group in plan.groups}
    assert not backward["model.layers.0.self_attn.q_proj"]  # its input depends on no secret
    assert backward["model.layers.0.self_attn.o_proj"]
    assert backward["model.layers.1.self_attn.q_proj"]
    inside = [m for m in plan.modules if m.name.startswith("prompt_encoder")]
    assert [m.placement for m in inside] == ["enclave"]
