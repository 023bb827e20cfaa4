"""One resolver decides which files are a model, for the whole and a part: attacks and accidents."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    SiglipVisionConfig,
)

from sealtune.errors import (
    ConfigError,
    DataError,
    ModelError,
    SealtuneError,
    TargetModulesError,
    UnsupportedModelError,
)
from sealtune.job.sections import LoraSpec, SplitSpec, TuningSpec
from sealtune.job.spec import DataSpec, ModelSpec
from sealtune.model.cut import CutEntry
from sealtune.model.files import model_digest, model_files
from sealtune.model.load import load_config, load_model, load_tokenizer, quiet
from sealtune.model.partial import check_weights, load_part
from sealtune.owner.bottom import Bottom
from sealtune.plan.resolve import check, resolve
from tests.enclave.flow import make_job
from tests.enclave.split_flow import make_split_job
from tests.model.test_cut import texts_and_mask
from tests.model.test_load import spec
from tests.model.tiny import make_gpt2, make_llama, make_tokenizer

INDEX = "model.safetensors.index.json"


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def other_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of another model of the same shape."""
    tensors = load_file(make_llama(folder, seed=7) / "model.safetensors")
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def shard(tensors: dict[str, Tensor], folder: Path, *, twice: str = "") -> None:
    """Write ``tensors`` as two files and an index; ``twice`` stands in both."""
    names = sorted(tensors)
    half = len(names) // 2
    parts = {"model-00001-of-00002.safetensors": names[:half],
             "model-00002-of-00002.safetensors": names[half:]}  # fmt: skip
    where = {name: part for part, own in parts.items() for name in own}
    for part, own in parts.items():
        chosen = {name: tensors[name] for name in {*own, *([twice] if twice else [])}}
        save_file(chosen, folder / part, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def logits(model: Any) -> Tensor:
    ids, mask = texts_and_mask()
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return found[mask.bool()]


def by_parts(folder: Path) -> Tensor:
    """Logits through a bottom and a top."""
    where = spec(folder, "causal-lm")
    ids, mask = texts_and_mask()
    hidden = Bottom(load_part(where, None, 1, "bottom"), 1)(ids, mask)
    top = load_part(where, None, 1, "top")
    CutEntry(top, 1).feed(hidden)
    return logits(top)


def theirs(folder: Path) -> Tensor:
    """Logits by transformers alone."""
    with quiet():
        return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval())


def check_alike(folder: Path) -> Tensor:
    """Whole, parts and transformers' own loading are one model."""
    expected = theirs(folder)
    assert torch.equal(logits(load_model(spec(folder, "causal-lm"), None)), expected)
    assert torch.equal(by_parts(folder), expected)
    check_weights(spec(folder, "causal-lm"))
    return expected


# --- which files are the model ------------------------------------------------------------------


def test_weights_beside_the_model_change_nothing(copy: Path, tmp_path: Path) -> None:
    before, digest = check_alike(copy), model_digest(spec(copy))
    other = other_weights(tmp_path / "other")
    shard(other, copy)
    save_file(other, copy / "model_old.safetensors", metadata={"format": "pt"})
    save_file(other, copy / "consolidated.safetensors", metadata={"format": "pt"})
    (copy / "original").mkdir()
    save_file(other, copy / "original" / "model.safetensors", metadata={"format": "pt"})
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    assert torch.equal(check_alike(copy), before)
    assert model_digest(spec(copy)) == digest
    assert model_files(spec(copy)).surplus == (
        "consolidated.safetensors", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", INDEX, "model_old.safetensors",
        "original/model.safetensors", "pytorch_model.bin",
    )  # fmt: skip


def test_a_sharded_model(copy: Path) -> None:
    before = check_alike(copy)
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    shard(tensors, copy)
    assert torch.equal(check_alike(copy), before)
    assert model_files(spec(copy)).weights == (
        INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    )  # fmt: skip


def load_whole(folder: Path) -> object:
    return load_model(spec(folder, "causal-lm"), None)


def load_bottom(folder: Path) -> object:
    return load_part(spec(folder, "causal-lm"), None, 1, "bottom")


LOADERS = pytest.mark.parametrize("load", [load_whole, load_bottom, by_parts])
Load = Callable[[Path], object]


@LOADERS
def test_one_name_in_two_files_is_refused(copy: Path, load: Load) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    shard(tensors, copy, twice="model.norm.weight")
    with pytest.raises(ModelError, match=r"hold model\.norm\.weight twice"):
        load(copy)


@LOADERS
def test_one_tensor_under_two_names_is_refused(copy: Path, load: Load) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["norm.weight"] = torch.zeros_like(tensors["model.norm.weight"])
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="twice"):
        load(copy)


def rewrite(folder: Path, name: str = "config.json", **changes: object) -> None:
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))


@LOADERS
def test_weights_cannot_be_redirected(copy: Path, tmp_path: Path, load: Load) -> None:
    """A swap inside a subfolder, after signing, would change the model under the same digest."""
    (copy / "deep").mkdir()
    other = other_weights(tmp_path / "other")
    save_file(other, copy / "deep" / "w.safetensors", metadata={"format": "pt"})
    rewrite(copy, transformers_weights="deep/w.safetensors")
    with pytest.raises(UnsupportedModelError, match="names another file of weights"):
        load(copy)


@LOADERS
def test_quantised_weights_are_refused(copy: Path, load: Load) -> None:
    rewrite(copy, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(UnsupportedModelError, match="quantised"):
        load(copy)


# --- what a configuration may not choose ---------------------------------------------------------


@pytest.mark.parametrize(
    "chosen", ["flash_attention_2", "kernels-community/flash-attn", "paged|org/kernel", "eager"]
)
def test_attention_is_not_chosen_by_the_model(copy: Path, chosen: str) -> None:
    before = check_alike(copy)
    rewrite(copy, attn_implementation=chosen, _attn_implementation=chosen)
    for model in (load_whole(copy), load_bottom(copy)):
        assert model.config._attn_implementation == "sdpa"  # type: ignore[attr-defined]
    assert torch.equal(logits(load_whole(copy)), before)
    assert torch.equal(by_parts(copy), before)


def test_code_of_a_model_is_not_run(copy: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    code = f"open({str(canary)!r}, 'w')\n"
    for name in ("configuration_evil.py", "tokenization_evil.py", "modeling_evil.py"):
        (copy / name).write_text(code)
    before = check_alike(copy)
    auto = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    rewrite(copy, auto_map=auto)
    rewrite(
        copy, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.T", None]}
    )
    assert torch.equal(logits(load_whole(copy)), before)
    assert load_tokenizer(spec(copy))("rash")["input_ids"]
    assert not canary.exists()


def test_keys_deep_inside_are_dropped_too(copy: Path) -> None:
    rewrite(copy, rope_scaling=None, nested={"deeper": {"auto_map": {"A": "b.C"}, "kept": 1}})
    content = json.loads((model_files(spec(copy)).view() / "config.json").read_text())
    assert content["nested"] == {"deeper": {"kept": 1}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_attn_implementation", "kernels-community/flash-attn"),
        ("_attn_implementation_internal", "eager"),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ("transformers_weights", "deep/w.safetensors"),
    ],
)
def test_a_key_cannot_be_chosen_under_another_name(copy: Path, key: str, value: object) -> None:
    """Transformers' ``attribute_map`` renames keys, so it would carry any past a filter."""
    rewrite(copy, attribute_map={"harmless": key}, harmless=value)
    for load in (load_whole, load_bottom):
        with pytest.raises(UnsupportedModelError, match="gives its own keys other names"):
            load(copy)


def test_layers_fused_by_the_configuration(copy: Path) -> None:
    before = check_alike(copy)
    rewrite(copy, fusion_config={"unknown": {}})
    assert torch.equal(logits(load_whole(copy)), before)


def test_a_configuration_that_replaces_a_method_is_refused(copy: Path) -> None:
    rewrite(copy, get_text_config="x")
    with pytest.raises(UnsupportedModelError, match="cannot read the model configuration"):
        load_config(spec(copy))


def test_keys_inside_lists_are_dropped_too(copy: Path) -> None:
    rewrite(copy, nested=[{"auto_map": {"A": "b.C"}, "kept": 1}, [{"device_map": "auto"}]])
    content = json.loads((model_files(spec(copy)).view() / "config.json").read_text())
    assert content["nested"] == [{"kept": 1}, [{}]]


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file", "merges_file", "source_spm"])
def test_a_tokenizer_cannot_be_redirected(copy: Path, tmp_path: Path, name: str, key: str) -> None:
    """A file elsewhere is not digested: a swap after signing would change what texts become."""
    text = "rash fever 0123456789 abcdefghijklmnopqrstuvwxyz"
    path = copy / "tokenizer_config.json"
    content = json.loads(path.read_text())
    content.pop("added_tokens_decoder", None)  # without it the map of special tokens is read
    path.write_text(json.dumps(content))
    expected = load_tokenizer(spec(copy))(text)["input_ids"]
    other = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = other["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "other.json").write_text(json.dumps(other))
    if name == "special_tokens_map.json":
        (copy / name).write_text("{}")
    rewrite(copy, name, **{key: str(tmp_path / "other.json")})
    assert key not in json.loads((model_files(spec(copy)).view() / name).read_text())
    assert load_tokenizer(spec(copy))(text)["input_ids"] == expected


def test_special_tokens_of_the_map_are_kept(copy: Path) -> None:
    tokens = {"eos_token": "<unk>", "extra_special_tokens": ["<a>"], "auto_map": {"A": "b.C"}}
    (copy / "special_tokens_map.json").write_text(json.dumps(tokens))
    view = model_files(spec(copy)).view()
    content = json.loads((view / "special_tokens_map.json").read_text())
    assert content == {"eos_token": "<unk>", "extra_special_tokens": ["<a>"]}


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_configuration_is_refused(copy: Path, data: bytes) -> None:
    (copy / "config.json").write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        load_config(spec(copy))


# --- what is read is what is digested ------------------------------------------------------------


def test_loaders_see_the_listed_files_alone(copy: Path) -> None:
    for name in ("generation_config.json", "adapter.safetensors", "README.md", "evil.py"):
        (copy / name).write_text("{}")
    files = model_files(spec(copy))
    assert sorted(path.name for path in files.view().iterdir()) == list(files.names)
    assert not {"generation_config.json", "evil.py", "README.md"} & set(files.names)
    structure = model_files(spec(copy), weights=False)
    assert {path.name for path in structure.view().iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    ],
)  # fmt: skip
def test_every_file_that_is_read_is_digested(copy: Path, name: str) -> None:
    before = model_files(spec(copy))
    digests = before.digest, before.tokenizer_digest
    with (copy / name).open("ab") as file:
        file.write(b" ")
    after = model_files(spec(copy))
    assert name in after.names
    assert digests[0] != after.digest
    tokenizer = name not in ("config.json", "model.safetensors")
    assert (digests[1] != after.tokenizer_digest) == tokenizer


def test_a_changed_file_is_seen_by_the_same_process(copy: Path) -> None:
    load_config(spec(copy))
    rewrite(copy, rms_norm_eps=0.5)
    assert load_config(spec(copy)).rms_norm_eps == 0.5


def test_a_swap_that_restores_size_and_time_is_seen(copy: Path, tmp_path: Path) -> None:
    path, before = copy / "model.safetensors", model_digest(spec(copy))
    stat = path.stat()
    other = make_llama(tmp_path / "other", seed=7) / "model.safetensors"
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert model_digest(spec(copy)) != before


def test_the_view_is_private(copy: Path) -> None:
    assert model_files(spec(copy)).view().stat().st_mode & 0o077 == 0


def test_saved_models_name_the_real_folder(copy: Path) -> None:
    assert load_whole(copy).name_or_path == str(copy)  # type: ignore[attr-defined]
    assert load_tokenizer(spec(copy)).name_or_path == str(copy)


# --- a hub's model is pinned ---------------------------------------------------------------------


def test_a_hubs_model_is_read_at_the_commit_that_was_looked_at(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshots = tmp_path / "models--org--tiny" / "snapshots"
    shutil.copytree(llama, snapshots / commit)
    asked: list[str | None] = []

    def fetch(_repository: str, *, revision: str | None, **_rest: object) -> str:
        asked.append(revision)
        return str(snapshots / (revision or commit))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setenv("SEALTUNE_CACHE", str(tmp_path / "cache"))
    job = make_job(tmp_path, llama, model=ModelSpec(path="org/tiny"))
    resolution = resolve(job)
    assert resolution.job.model.revision == commit
    assert resolution.model.name == f"org/tiny@{commit}"
    assert asked[0] is None
    assert set(asked[1:]) == {commit}


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_args: object, **_kwargs: object) -> str:
        raise RuntimeError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match="cannot fetch the model org/tiny from the hub: offline"):
        load_config(ModelSpec(path="org/tiny"))


# --- tied weights, and what is found before work starts ------------------------------------------


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.embed_tokens.weight", "embed_tokens.weight"]
)
def test_tied_weights_under_either_name(copy: Path, name: str) -> None:
    before = check_alike(copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[name] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(check_alike(copy), before)


def test_a_multimodal_model_is_named_so(tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    vision = SiglipVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    Gemma3Config(
        text_config=Gemma3TextConfig(**small).to_dict(), vision_config=vision
    ).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="multimodal gemma3"):
        load_config(spec(tmp_path))


def make_narrow(folder: Path, rows: int) -> Path:
    """A model whose embedding has fewer rows than its tokenizer has tokens."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_pad_token_beyond_the_embedding(tmp_path: Path) -> None:
    folder = make_narrow(tmp_path / "model", 350)
    make_tokenizer(folder, pad=None)
    tokenizer = load_tokenizer(spec(folder))
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    make_narrow(folder, size)
    with pytest.raises(ModelError, match=rf"'\[PAD\]' has number {size}, .* has {size} rows"):
        check(make_job(tmp_path, folder))


def test_a_token_beyond_the_embedding(tmp_path: Path) -> None:
    folder = make_narrow(tmp_path / "model", 260)  # bytes alone; words have higher numbers
    make_tokenizer(folder)
    with pytest.raises(DataError, match=r"row \d+ has token number \d+, .* has 260 rows"):
        check(make_job(tmp_path, folder))


@pytest.mark.parametrize(("places", "fits"), [(16, True), (15, False), (8, False)])
def test_texts_longer_than_the_positions(tmp_path: Path, places: int, fits: bool) -> None:
    folder = make_gpt2(tmp_path / "model")
    rewrite(folder, n_positions=places)
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if n.endswith("wpe.weight"))
    tensors[name] = tensors[name][:places].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tuning = TuningSpec(lora=LoraSpec(targets="all-linear"))
    job = make_job(tmp_path, folder, tuning=tuning)
    data = DataSpec(train=job.data.train, test=job.data.test, max_tokens=14)
    job = job.model_copy(update={"data": data})
    if fits:
        check(job)
    else:
        with pytest.raises(DataError, match=f"up to 16 tokens, .* has {places} positions"):
            check(job)


@pytest.mark.parametrize(
    ("sections", "kind", "words"),
    [
        ({"split": SplitSpec(cut=2)}, ConfigError, "the model has 2 blocks"),
        ({"tuning": TuningSpec(lora=LoraSpec(layers=(0,)))}, SealtuneError, "0"),
        ({"tuning": TuningSpec(lora=LoraSpec(layers=(5,)))}, SealtuneError, "5"),
        (
            {"tuning": TuningSpec(lora=LoraSpec(targets=("nothing",)))},
            TargetModulesError,
            "nothing",
        ),
    ],
)
def test_a_cut_and_layers_that_do_not_go_together(
    llama: Path, tmp_path: Path, sections: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        check(make_split_job(tmp_path, llama, **sections))


def test_lacking_weights_are_found_before_a_start(copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    for job in (make_job(tmp_path, copy), make_split_job(tmp_path, copy)):
        with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
            check(job)


def test_an_index_without_a_map_is_refused(copy: Path) -> None:
    (copy / INDEX).write_text('{"weight_map": []}')
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weight_map"):
        model_files(spec(copy))


@pytest.mark.parametrize(
    "part",
    ["../w.safetensors", "deep/w.safetensors", "/w.safetensors", ".w.safetensors", "w.bin",
     "w\n\x1b[2J.safetensors"],
)  # fmt: skip
def test_a_part_outside_the_folder_is_refused(copy: Path, part: str) -> None:
    (copy / INDEX).write_text(json.dumps({"weight_map": {"a": part}}))
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="outside its folder") as error:
        model_files(spec(copy))
    assert "\x1b" not in str(error.value)
