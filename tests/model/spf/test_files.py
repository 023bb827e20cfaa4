"""Written SPF comes back exactly, and anything else is refused."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from sealtune.errors import AdapterMismatchError, ModelError, StorageError
from sealtune.model.load import quiet
from sealtune.tuning.spf import (
    SPFConfig,
    apply_spf,
    chosen_heads,
    load_spf,
    merge_spf,
    read_spf_config,
    save_spf,
)
from sealtune.tuning.spf.files import (
    SPF_CONFIG,
    SPF_WEIGHTS,
    install_spf,
    parse_spf_config,
    spf_files,
)
from sealtune.tuning.spf.layer import SparseDelta
from tests.model.spf.decoders import ARRANGEMENTS, logits_of, loss_of, make

CONFIG = SPFConfig(qkv=0.375, dense=0.25, select="random", seed=3)
QUERY = "model.layers.0.self_attn.q_proj.delta"
ATTENTION = "model.layers.0.self_attn"


def tuned(name: str = "llama", config: SPFConfig = CONFIG, model: Any = None) -> Any:
    """A model whose SPF is not zero."""
    model = make(name) if model is None else model
    apply_spf(model, config, calibrate=lambda: loss_of(model))
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=source))
    return model


@pytest.fixture(scope="module")
def live() -> Any:
    return tuned()


@pytest.fixture(scope="module")
def plain() -> Any:
    return make("llama")


@pytest.fixture
def folder(live: Any, tmp_path: Path) -> Path:
    save_spf(live, tmp_path / "spf")
    return tmp_path / "spf"


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_what_was_saved_comes_back_exactly(name: str, tmp_path: Path) -> None:
    one = tuned(name)
    save_spf(one, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [SPF_CONFIG, SPF_WEIGHTS]
    two = make(name)
    assert load_spf(two, tmp_path) is two
    assert chosen_heads(two) == chosen_heads(one)
    assert torch.equal(logits_of(two), logits_of(one))
    assert not torch.equal(logits_of(two), logits_of(make(name)))
    assert [n for n, p in two.named_parameters() if p.requires_grad] == [
        n for n, p in one.named_parameters() if p.requires_grad
    ]
    assert torch.equal(logits_of(merge_spf(two)), logits_of(merge_spf(one)))


def test_heads_are_read_and_not_chosen_again(tmp_path: Path) -> None:
    """Selectors that look at data, or at weights, have nothing to say any more."""
    model = tuned(config=SPFConfig(qkv=0.25, dense=0, select="activation", layers=(1,)))
    save_spf(model, tmp_path)
    other = load_spf(make("llama", seed=5), tmp_path)  # another base ranks its heads otherwise
    assert chosen_heads(other) == chosen_heads(model)
    assert read_spf_config(tmp_path).config.select == "activation"


def test_files_say_what_they_hold(live: Any, folder: Path) -> None:
    written = json.loads((folder / SPF_CONFIG).read_text())
    assert written["format"] == 1
    assert written["config"] == json.loads(CONFIG.model_dump_json())
    assert written["heads"][ATTENTION].keys() == {"query", "key-value", "dense"}
    assert read_spf_config(folder).config == CONFIG
    assert read_spf_config(folder).heads == chosen_heads(live)
    with safe_open(folder / SPF_WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    tensors = load_file(folder / SPF_WEIGHTS)
    deltas = {n: m for n, m in live.named_modules() if isinstance(m, SparseDelta)}
    assert tensors.keys() == {f"{name.removesuffix('.spf')}.delta" for name in deltas}
    for name, module in deltas.items():
        assert torch.equal(tensors[f"{name.removesuffix('.spf')}.delta"], module.delta)


def test_modules_to_save_travel_along(tmp_path: Path) -> None:
    config = SPFConfig(qkv=0.25, modules_to_save=("lm_head",))
    model = tuned(config=config)
    save_spf(model, tmp_path)
    assert "lm_head.weight" in load_file(tmp_path / SPF_WEIGHTS)
    other = load_spf(make("llama"), tmp_path)
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert torch.equal(logits_of(other), logits_of(model))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        pytest.param(SPFConfig(modules_to_save=("lm_head",))),
    ],
    ids=["deltas", "module to save"],
)
def test_a_bfloat16_model_reads_its_own_file(config: SPFConfig, tmp_path: Path) -> None:
    model = tuned(config=config, model=make("llama").to(torch.bfloat16))
    save_spf(model, tmp_path)
    other = load_spf(make("llama").to(torch.bfloat16), tmp_path)
    assert torch.equal(logits_of(other), logits_of(model))


def test_names_in_files_are_those_of_the_plain_model(tmp_path: Path) -> None:
    """SPF beside LoRA is written like SPF alone."""
    with quiet():
        model = get_peft_model(make("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    apply_spf(model, CONFIG)
    source = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SparseDelta):
                module.delta.add_(torch.randn(module.delta.shape, generator=source))
    save_spf(model, tmp_path)
    plain = load_spf(make("llama"), tmp_path)
    assert chosen_heads(plain) == chosen_heads(model)
    assert torch.equal(logits_of(plain), logits_of(model))  # LoRA is still zero


# --- what is refused -----------------------------------------------------------------------------


def without_query(state: dict[str, Tensor]) -> None:
    del state[QUERY]


def with_one_more(state: dict[str, Tensor]) -> None:
    state["model.layers.7.self_attn.q_proj.delta"] = torch.zeros(8, 64)


def renamed(state: dict[str, Tensor]) -> None:
    state["base_model.model." + QUERY] = state.pop(QUERY)


def transposed(state: dict[str, Tensor]) -> None:
    state[QUERY] = state[QUERY].t().contiguous()


def row_short(state: dict[str, Tensor]) -> None:
    state[QUERY] = state[QUERY][:-1].contiguous()


def broadcastable(state: dict[str, Tensor]) -> None:
    state[QUERY] = state[QUERY][:1].contiguous()


def half(state: dict[str, Tensor]) -> None:
    state[QUERY] = state[QUERY].half()


def double(state: dict[str, Tensor]) -> None:
    state[QUERY] = state[QUERY].double()


def nan(state: dict[str, Tensor]) -> None:
    state[QUERY][0, 3] = float("nan")


def infinite(state: dict[str, Tensor]) -> None:
    state[QUERY][-1, -1] = float("-inf")


FAULTS = [
    (without_query, "lacks 1 tensors, such as .*q_proj.delta"),
    (with_one_more, "has 1 tensors too many, such as model.layers.7"),
    (renamed, "lacks 1 tensors, .* and has 1 tensors too many"),
    (transposed, "is .64, 24. torch.float32, not .24, 64. float32"),
    (row_short, "is .23, 64. torch.float32, not .24, 64. float32"),
    (broadcastable, "is .1, 64. torch.float32, not .24, 64. float32"),
    (half, "is .24, 64. torch.float16, not"),
    (double, "is .24, 64. torch.float64, not"),
    (nan, "holds values that are not finite"),
    (infinite, "holds values that are not finite"),
]


def rewrite(folder: Path, weights: bytes) -> None:
    """Other weights, with settings that belong to them."""
    (folder / SPF_WEIGHTS).write_bytes(weights)
    content = json.loads((folder / SPF_CONFIG).read_text())
    content["weights"] = hashlib.sha256(weights).hexdigest()
    (folder / SPF_CONFIG).write_text(json.dumps(content))


def test_weights_of_another_time_are_refused(folder: Path, live: Any) -> None:
    """They would fit: the same tensors, with other values."""
    state = load_file(folder / SPF_WEIGHTS)
    (folder / SPF_WEIGHTS).write_bytes(save({name: 2 * t for name, t in state.items()}))
    with pytest.raises(AdapterMismatchError, match="of another time"):
        load_spf(make("llama"), folder)


@pytest.mark.parametrize(("fault", "text"), FAULTS, ids=[f.__name__ for f, _ in FAULTS])
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, fault: Callable[[dict[str, Tensor]], None], text: str
) -> None:
    state = load_file(folder / SPF_WEIGHTS)
    fault(state)
    rewrite(folder, save(state))
    model = make("llama")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(AdapterMismatchError, match=text):
        load_spf(model, folder)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert torch.equal(logits_of(model), logits_of(make("llama")))  # no delta was copied in


@pytest.mark.parametrize("fault", [without_query, row_short, nan])
def test_a_refused_file_leaves_the_model_plain(
    live: Any, folder: Path, fault: Callable[[dict[str, Tensor]], None]
) -> None:
    good = (folder / SPF_WEIGHTS).read_bytes()
    state = load_file(folder / SPF_WEIGHTS)
    fault(state)
    rewrite(folder, save(state))
    model = make("llama")
    with pytest.raises(AdapterMismatchError):
        load_spf(model, folder)
    rewrite(folder, good)
    load_spf(model, folder)
    assert torch.equal(logits_of(model), logits_of(live))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -1000])
def test_a_file_cut_short_is_refused(folder: Path, keep: int) -> None:
    rewrite(folder, (folder / SPF_WEIGHTS).read_bytes()[:keep])
    model = make("llama")
    with pytest.raises(AdapterMismatchError, match="damaged or cut short"):
        load_spf(model, folder)
    apply_spf(model, CONFIG)  # nothing was put on


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=200).filter(lambda d: b"{" not in d), header=st.booleans())
def test_arbitrary_weights_are_refused(plain: Any, live: Any, data: bytes, header: bool) -> None:
    if header:
        data = len(data).to_bytes(8, "little") + data
    file = parse_spf_config(spf_files(live)[SPF_CONFIG], "here")
    file = file.model_copy(update={"weights": hashlib.sha256(data).hexdigest()})
    with pytest.raises(AdapterMismatchError, match="is damaged or cut short"):
        install_spf(plain, file, data, "here")


@pytest.mark.parametrize("name", [SPF_CONFIG, SPF_WEIGHTS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name} cannot be read: no such file"):
        load_spf(make("llama"), folder)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_arbitrary_settings_are_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="here is damaged"):
        parse_spf_config(data, "here")


Fault = Callable[[dict[str, Any]], None]
DAMAGE: list[tuple[Fault, str]] = [
    (lambda c: c.update(format=2), "format"),
    (lambda c: c.update(more=1), "more"),
    (lambda c: c.pop("heads"), "heads"),
    (lambda c: c.pop("config"), "config"),
    (lambda c: c["config"].update(qkv=1.5), "config.qkv"),
    (lambda c: c["config"].update(qkv=0, dense=0), "config"),
    (lambda c: c["config"].update(select="best"), "config.select"),
    (lambda c: c["config"].update(rank=4), "config.rank"),
    (lambda c: c["heads"][ATTENTION].update(query="all"), f"heads.{ATTENTION}.query"),
    (lambda c: c["heads"][ATTENTION].update(query=[0.5]), f"heads.{ATTENTION}.query.0"),
]


@pytest.mark.parametrize(("fault", "where"), DAMAGE, ids=[where for _, where in DAMAGE])
def test_damaged_settings_are_refused_with_the_place(
    folder: Path, fault: Fault, where: str
) -> None:
    content = json.loads((folder / SPF_CONFIG).read_text())
    fault(content)
    (folder / SPF_CONFIG).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="is damaged") as caught:
        load_spf(make("llama"), folder)
    assert f"at {where}" in str(caught.value)


def test_settings_cut_short_are_refused(folder: Path) -> None:
    data = (folder / SPF_CONFIG).read_bytes()
    (folder / SPF_CONFIG).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="is damaged"):
        read_spf_config(folder)


@pytest.mark.parametrize("number", [8, -1, 10**9])
def test_a_head_that_is_not_there_is_refused(folder: Path, number: int) -> None:
    content = json.loads((folder / SPF_CONFIG).read_text())
    content["heads"][ATTENTION]["query"][0] = number
    (folder / SPF_CONFIG).write_text(json.dumps(content))
    model = make("llama")
    with pytest.raises(ModelError, match="has query heads 0 to 7, each once"):
        load_spf(model, folder)
    apply_spf(model, CONFIG)  # nothing was put on


def test_heads_of_an_unknown_kind_are_refused(folder: Path) -> None:
    content = json.loads((folder / SPF_CONFIG).read_text())
    content["heads"][ATTENTION]["value"] = [1]
    (folder / SPF_CONFIG).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="value"):
        load_spf(make("llama"), folder)


@pytest.mark.parametrize("other", ["gpt2", "qwen3", "neox"])
def test_the_file_of_another_model_is_refused(folder: Path, other: str) -> None:
    with pytest.raises(ModelError):
        load_spf(make(other), folder)


def test_the_file_of_a_longer_model_is_refused(tmp_path: Path) -> None:
    save_spf(tuned(model=make("llama", blocks=3)), tmp_path)
    with pytest.raises(ModelError, match=r"no heads 'query' in model\.layers\.2\.self_attn"):
        load_spf(make("llama"), tmp_path)


def test_the_file_of_a_shorter_model_is_refused(tmp_path: Path) -> None:
    """Its settings say all blocks, but it has no heads for the second one."""
    save_spf(tuned(model=make("llama", blocks=1)), tmp_path)
    with pytest.raises(ModelError):
        load_spf(make("llama"), tmp_path)


def test_loading_on_a_tuned_model_is_refused(live: Any, folder: Path) -> None:
    with pytest.raises(ModelError, match="on this model already"):
        load_spf(live, folder)


def test_a_model_without_spf_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no SPF on this model"):
        save_spf(make("llama"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    model = tuned()
    save_spf(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    delta = next(m.delta for m in model.modules() if isinstance(m, SparseDelta))
    with torch.no_grad():
        delta[0, 0] = float("inf")
    with pytest.raises(AdapterMismatchError, match="not finite; nothing written"):
        save_spf(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_old_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sealtune.job.storage.os.fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        save_spf(tuned(config=SPFConfig(qkv=1)), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_disk_that_is_full_in_between_leaves_nothing_that_loads_wrongly(
    live: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full_at_the_second(handle: int) -> None:
        calls.extend([1] if stat.S_ISREG(os.fstat(handle).st_mode) else [])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sealtune.job.storage.os.fsync", full_at_the_second)
    other = tuned(config=SPFConfig(qkv=0.375, dense=0.25, select="random", seed=4))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2 if parameter.requires_grad else 1)
    with pytest.raises(StorageError):
        save_spf(other, folder)
    model = make("llama")
    try:
        load_spf(model, folder)
    except ModelError:
        return
    assert torch.equal(logits_of(model), logits_of(live))
