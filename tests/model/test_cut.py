"""A decoder in two parts answers, and learns, as it does in one piece."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from sealtune.errors import ConfigError, ModelError, UnsupportedModelError
from sealtune.job.sections import JobSpec, LoraSpec, SitesSpec, SplitSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_model, quiet
from sealtune.model.partial import Elsewhere, load_part
from sealtune.model.samples import Contents, Sample, Samples
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import Task
from sealtune.model.texts import Dataset, Texts
from sealtune.model.trainable import trainable_state
from sealtune.model.training import RoundResult, evaluate, local_round
from sealtune.owner.bottom import Bottom
from sealtune.plan.planner import make_plan
from sealtune.plan.split import cut_at
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.spf import chosen_heads
from tests.float64 import as_near_as, distance, in_float64
from tests.model.spf.decoders import VOCABULARY, make
from tests.model.test_load import spec
from tests.model.test_tasks import task_of
from tests.model.tiny import LABELS, ids_of, make_texts, make_tokenizer

BLOCKS, CUT, CLASSES = 4, 2, 3
NAMES = (
    "llama", "tied-llama", "qwen2", "qwen3", "mistral", "glm4", "gemma3", "gpt2", "neox", "phi3",
)  # fmt: skip
PARTS = ("bottom", "top")
BLOCK = {"gpt2": "transformer.h.", "neox": "gpt_neox.layers."}
EMBEDDING = {"gpt2": "transformer.wte.weight", "neox": "gpt_neox.embed_in.weight"}
FolderOf = Callable[..., Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a tiny model by its name, made once."""
    made: dict[tuple[str, Any], Path] = {}

    def folder(name: str, **options: Any) -> Path:
        key = (name, tuple(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name) / "model"
            with quiet():
                make(name, blocks=BLOCKS).save_pretrained(made[key], **options)
            make_tokenizer(made[key])
        return made[key]

    return folder


@pytest.fixture
def copy(folder_of: FolderOf, tmp_path: Path) -> Path:
    """A Llama's folder that may be damaged."""
    return Path(shutil.copytree(folder_of("llama"), tmp_path / "copy"))


def texts_and_mask() -> tuple[Tensor, Tensor]:
    """[2, 8], the second text shorter than the first."""
    ids = torch.randint(2, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return torch.where(mask.bool(), ids, 0), mask  # 0 is the padding


def block_of(name: str, parameter: str) -> int | None:
    """Number of the block that a parameter is in."""
    prefix = BLOCK.get(name, "model.layers.")
    inside = parameter.startswith(prefix)
    return int(parameter.removeprefix(prefix).split(".")[0]) if inside else None


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of tensors that are read from files, in order."""
    found: list[str] = []

    class Slice:
        """Of a tensor that is read in pieces."""

        def __init__(self, name: str, source: Any) -> None:
            self._name, self._source = name, source
            self.get_shape = source.get_shape

        def __getitem__(self, rows: slice) -> Tensor:
            if rows.start == 0:
                found.append(self._name)
            return self._source[rows]  # type: ignore[no-any-return]

    class Recorder:
        """Only what is here can be done to a file."""

        def __init__(self, path: Path, framework: str) -> None:
            self._file = safe_open(path, framework=framework)

        def __enter__(self) -> Recorder:
            self._file.__enter__()
            return self

        def __exit__(self, *exception: object) -> None:
            self._file.__exit__(*exception)

        def keys(self) -> list[str]:
            return list(self._file.keys())

        def get_slice(self, name: str) -> Slice:
            return Slice(name, self._file.get_slice(name))

        def get_tensor(self, name: str) -> Tensor:
            found.append(name)
            return self._file.get_tensor(name)  # type: ignore[no-any-return]

    monkeypatch.setattr("sealtune.model.weights.safe_open", Recorder)
    return found


# --- the two parts are the whole ---------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize("name", NAMES)
def test_both_parts_give_the_whole_models_logits_bit_for_bit(
    folder_of: FolderOf, name: str, task: str
) -> None:
    where, labels = spec(folder_of(name), task), CLASSES if task == "classification" else None
    check_parts(where, labels, CUT)


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_every_cut_gives_the_same(folder_of: FolderOf, name: str, cut: int) -> None:
    check_parts(spec(folder_of(name), "causal-lm"), None, cut)


def check_parts(where: Any, labels: int | None, cut: int) -> None:
    whole = load_model(where, labels)
    ids, mask = texts_and_mask()
    entering: list[Tensor] = []
    _, blocks = find_blocks(whole)
    blocks[cut].register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    with torch.no_grad():
        expected = whole(input_ids=ids, attention_mask=mask).logits
    hidden = Bottom(load_part(where, labels, cut, "bottom"), cut)(ids, mask)
    assert hidden.dtype == torch.float32
    assert not hidden.requires_grad
    assert torch.equal(hidden, entering[0])
    top = load_part(where, labels, cut, "top")
    if labels:
        assert not top.score.weight.any()  # fresh, and the same for everybody
        top.score.weight.data.copy_(whole.score.weight)
    entry = CutEntry(top, cut)
    entry.feed(hidden)
    anything = torch.where(mask.bool(), 7, 0)  # the top never sees the tokens
    with torch.no_grad():
        got = top(input_ids=anything, attention_mask=mask).logits
    if labels is None:
        got, expected = got[mask.bool()], expected[mask.bool()]
    assert torch.equal(got, expected), float((got - expected).abs().max())
    assert len(expected.unique()) > expected.numel() // 2


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        pytest.param(None),
    ],
)
def test_a_bottom_is_the_same_for_every_task(folder_of: FolderOf, labels: int | None) -> None:
    """The head is the top's, so nobody needs to know the classes for a bottom."""
    ids, mask = texts_and_mask()
    folder = folder_of("llama")
    one = Bottom(load_part(spec(folder, "causal-lm"), None, CUT, "bottom"), CUT)
    two = Bottom(load_part(spec(folder, "classification"), labels, CUT, "bottom"), CUT)
    assert torch.equal(one(ids, mask), two(ids, mask))


def test_a_bottom_can_be_used_again_and_keeps_nothing(folder_of: FolderOf) -> None:
    bottom = Bottom(load_part(spec(folder_of("llama"), "causal-lm"), None, CUT, "bottom"), CUT)
    ids, mask = texts_and_mask()
    first, other = bottom(ids, mask), bottom(ids[:1, :3], mask[:1, :3])
    assert other.shape == (1, 3, 64)
    assert torch.equal(bottom(ids, mask), first)


@pytest.mark.usefixtures("float64")
def test_padding_does_not_reach_the_text(folder_of: FolderOf) -> None:
    part = load_part(spec(folder_of("llama"), "causal-lm"), None, CUT, "bottom").double()
    bottom = Bottom(part, CUT)
    ids, mask = texts_and_mask()
    alone = bottom(ids[1:, :5], mask[1:, :5])
    assert float((bottom(ids, mask)[1:, :5] - alone).abs().max()) < 1e-12


_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
    "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
_GEMMA4: dict[str, Any] = {
    **_SMALL, "head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
_EIGHT = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}


def split_job(model: ModelSpec) -> Job:
    """A split job whose files nobody reads."""
    return Job(
        job=JobSpec(name="cut", method="split"),
        model=model,
        data=DataSpec(train=Path("train.csv"), test=Path("test.csv")),
        sites=SitesSpec(names=("a",), partition="label"),
        tuning=TuningSpec(lora=LoraSpec(targets="all-linear")),
        split=SplitSpec(cut=CUT),
    )


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("olmo2", _SMALL),
        ("gemma2", {**_SMALL, "head_dim": 16}),
        ("opt", {**_SMALL, "ffn_dim": 96, "word_embed_proj_dim": 64}),
        ("gemma4_text", _GEMMA4),
        ("gemma4_text", {**_GEMMA4, **_EIGHT}),
        ("gemma4_text", {**_GEMMA4, "num_kv_shared_layers": 2}),
        ("bloom", {**_SMALL, "n_layer": 4, "n_head": 4}),
    ],
    ids=["olmo2", "gemma2", "opt", "gemma4", "gemma4-per-layer", "gemma4-shared", "bloom"],
)
def test_other_decoders_are_cut_exactly_or_refused_at_once(
    tmp_path: Path, kind: str, values: dict[str, Any]
) -> None:
    """Never a part that answers otherwise than the whole, nor one that fails when it runs."""
    with quiet():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values))
        if values is _GEMMA4:
            for block in model.model.layers:
                block.layer_scalar.fill_(0.5)
        model.save_pretrained(tmp_path)
    where = spec(tmp_path, "causal-lm")
    try:
        make_plan(split_job(where), None)
        for part in PARTS:
            load_part(where, None, CUT, part)  # type: ignore[arg-type]
    except UnsupportedModelError:
        return
    check_parts(where, None, CUT)


# --- what a part holds, and what is read for it ------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize("name", NAMES)
def test_a_part_reads_its_own_tensors_once_and_no_others(
    folder_of: FolderOf, reads: list[str], name: str, task: str
) -> None:
    where, labels = spec(folder_of(name), task), CLASSES if task == "classification" else None
    stored = list(load_file(folder_of(name) / "model.safetensors"))
    embedding = EMBEDDING.get(name, "model.embed_tokens.weight")
    head = {"lm_head.weight", "embed_out.weight"} & set(stored)
    for part, own in (("bottom", range(CUT)), ("top", range(CUT, BLOCKS))):
        reads.clear()
        load_part(where, labels, CUT, part)  # type: ignore[arg-type]
        assert len(reads) == len(set(reads))
        inside = {n for n in stored if block_of(name, n) in own}
        assert {n for n in reads if block_of(name, n) is not None} == inside
        outside = set(reads) - inside
        uses_head = part == "top" and task == "causal-lm"
        assert outside & head == (head if uses_head else set())
        tied = uses_head and not head  # then the output matrix is the embedding's
        assert (embedding in outside) == (part == "bottom" or tied)


def test_shapes_alone_need_no_file_to_be_read(folder_of: FolderOf, reads: list[str]) -> None:
    where = spec(folder_of("llama"), "causal-lm")
    for part in PARTS:
        shapes = load_part(where, None, CUT, part, meta=True)  # type: ignore[arg-type]
        real = load_part(where, None, CUT, part)  # type: ignore[arg-type]
        reads.clear()
        load_part(where, None, CUT, part, meta=True)  # type: ignore[arg-type]
        assert reads == []
        assert {p.device.type for p in shapes.parameters()} == {"meta"}
        assert not any(p.requires_grad for p in shapes.parameters())
        assert {n: p.shape for n, p in shapes.named_parameters()} == {
            n: p.shape for n, p in real.named_parameters()
        }


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize("name", NAMES)
def test_parameters_keep_their_names_and_values(folder_of: FolderOf, name: str, task: str) -> None:
    where, labels = spec(folder_of(name), task), CLASSES if task == "classification" else None
    whole = dict(load_model(where, labels).named_parameters(remove_duplicate=False))
    found: dict[str, dict[str, Tensor]] = {}
    for part, own in (("bottom", range(CUT)), ("top", range(CUT, BLOCKS))):
        model = load_part(where, labels, CUT, part)  # type: ignore[arg-type]
        blocks = find_blocks(model)[1]
        here = [n for n, block in enumerate(blocks) if not isinstance(block, Elsewhere)]
        assert here == list(own)
        assert not model.training
        found[part] = dict(model.named_parameters())
        for n, parameter in found[part].items():
            assert not parameter.requires_grad
            assert not parameter.is_meta
            assert parameter.dtype == torch.float32
            assert block_of(name, n) in (None, *own)
            if n != "score.weight":
                assert torch.equal(parameter, whole[n]), n
    assert found["bottom"].keys() | found["top"].keys() == whole.keys()


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize("name", NAMES)
def test_a_top_has_no_embedding_unless_its_output_matrix_is_the_same(
    folder_of: FolderOf, name: str, task: str
) -> None:
    where, labels = spec(folder_of(name), task), CLASSES if task == "classification" else None
    top = load_part(where, labels, CUT, "top")
    assert not list(top.get_input_embeddings().parameters())
    embedding = EMBEDDING.get(name, "model.embed_tokens.weight")
    table = load_file(folder_of(name) / "model.safetensors")[embedding]
    same = [
        n for n, p in top.named_parameters() if p.shape == table.shape and torch.equal(p, table)
    ]
    tied = name in ("tied-llama", "gemma3", "gpt2") and task == "causal-lm"
    assert same == (["lm_head.weight"] if tied else [])


def test_blocks_that_are_elsewhere_hold_nothing(folder_of: FolderOf) -> None:
    for part in PARTS:
        model = load_part(spec(folder_of("llama"), "causal-lm"), None, 1, part)  # type: ignore[arg-type]
        _, blocks = find_blocks(model)
        away = [number for number, block in enumerate(blocks) if isinstance(block, Elsewhere)]
        assert away == ([1, 2, 3] if part == "bottom" else [0])
        for number in away:
            assert not list(blocks[number].parameters())
            assert not list(blocks[number].buffers())


def test_parts_in_bfloat16(folder_of: FolderOf) -> None:
    where = spec(folder_of("llama"), "causal-lm")
    ids, mask = texts_and_mask()
    hidden = Bottom(load_part(where, None, CUT, "bottom"), CUT)(ids, mask)
    top = load_part(where, None, CUT, "top", dtype=torch.bfloat16)
    assert {p.dtype for p in top.parameters()} == {torch.bfloat16}
    entry = CutEntry(top, CUT)
    entry.feed(hidden)
    exact = load_model(where, None)
    with torch.no_grad():
        got = top(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        expected = exact(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    assert got.dtype == torch.bfloat16
    assert float((got.float() - expected).abs().max()) < 0.1 * float(expected.abs().max())


# --- files --------------------------------------------------------------------------------------


def test_weights_in_several_files_are_found(folder_of: FolderOf, reads: list[str]) -> None:
    folder = folder_of("llama", max_shard_size="150KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    check_parts(spec(folder, "causal-lm"), None, CUT)
    twice = {n for n in reads if reads.count(n) > 1}
    assert twice == {"model.norm.weight"}  # which both parts have


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
def test_files_of_a_bare_decoder_are_understood(
    folder_of: FolderOf, tmp_path: Path, name: str
) -> None:
    """Names without the prefix, as in GPT-2's own file on the hub."""
    folder = Path(shutil.copytree(folder_of(name), tmp_path / "copy"))
    prefix = BLOCK.get(name, "model.layers.").split(".")[0] + "."
    state = load_file(folder / "model.safetensors")
    bare = {n.removeprefix(prefix): t for n, t in state.items()}
    assert bare.keys() != state.keys()
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    check_parts(spec(folder, "classification"), CLASSES, CUT)


@pytest.mark.parametrize(
    "name",
    ["model.layers.{}.mlp.up_proj.weight", "model.layers.{}.input_layernorm.weight"],
)
@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named_if_it_is_needed(copy: Path, part: Any, name: str) -> None:
    own, others = (1, 2) if part == "bottom" else (2, 1)
    state = load_file(copy / "model.safetensors")
    missing = state.pop(name.format(others))
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    load_part(spec(copy), CLASSES, CUT, part)  # the other party's business
    state[name.format(others)] = missing
    del state[name.format(own)]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lack {name.format(own)}"):
        load_part(spec(copy), CLASSES, CUT, part)


@pytest.mark.parametrize(
    ("name", "part"),
    [("model.embed_tokens.weight", "bottom"), ("model.norm.weight", "top"),
     ("lm_head.weight", "top")],
)  # fmt: skip
def test_every_tensor_outside_the_blocks_is_needed(copy: Path, name: str, part: Any) -> None:
    state = load_file(copy / "model.safetensors")
    del state[name]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lack {name}"):
        load_part(spec(copy, "causal-lm"), None, CUT, part)


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t.t(), lambda t: t[None]])
def test_a_tensor_of_another_shape_is_refused(
    copy: Path, change: Callable[[Tensor], Tensor]
) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    state = load_file(copy / "model.safetensors")
    state[name] = change(state[name]).contiguous()
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} in .* is .*, not .96, 64."):
        load_part(spec(copy), CLASSES, CUT, "top")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "damage",
    [lambda d: d[:-1], lambda d: d[: len(d) // 2], lambda d: d[:4], lambda d: b"",
     lambda d: b"\xff" * 8 + d[8:], lambda d: d[:8] + b"?" + d[9:]],
    ids=["byte short", "half", "no header", "empty", "huge header", "no JSON"],
)  # fmt: skip
def test_damaged_files_are_refused(copy: Path, damage: Callable[[bytes], bytes], part: Any) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match="cannot read the model"):
        load_part(spec(copy), CLASSES, CUT, part)


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds neither model\.safetensors nor"):
        load_part(spec(copy), CLASSES, CUT, "bottom")


# --- where to cut -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cut", "blocks", "expected"),
    [
        (1, 2, 1), (3, 4, 3), (27, 28, 27),
        (0.5, 4, 2), (0.25, 4, 1), (0.75, 4, 3), (0.001, 28, 1), (0.1, 30, 3), (0.95, 28, 27),
    ],
)  # fmt: skip
def test_cuts(cut: float, blocks: int, expected: int) -> None:
    number = cut_at(cut, blocks)
    assert number == expected
    assert type(number) is int


@pytest.mark.parametrize(
    ("cut", "blocks"),
    [(0, 4), (-1, 4), (4, 4), (5, 4), (10**9, 4), (1.0, 4), (0.99, 4), (1, 1), (0.5, 1)],
)
def test_cuts_that_leave_nothing_for_one_side_are_refused(cut: float, blocks: int) -> None:
    with pytest.raises(ConfigError) as caught:
        cut_at(cut, blocks)
    (problem,) = caught.value.problems
    assert problem.key == "split.cut"
    assert f"is {cut}, but the model has {blocks} blocks" in problem.message
    assert f"a whole number from 1 to {blocks - 1}" in problem.message


# --- the entry ----------------------------------------------------------------------------------


@pytest.fixture
def entered(folder_of: FolderOf) -> tuple[Any, CutEntry]:
    top = load_part(spec(folder_of("llama"), "causal-lm"), None, CUT, "top")
    return top, CutEntry(top, CUT)


def test_a_top_without_activations_is_refused(entered: tuple[Any, CutEntry]) -> None:
    ids, mask = texts_and_mask()
    with pytest.raises(ModelError, match="run without cut activations"):
        entered[0](input_ids=ids, attention_mask=mask)


@pytest.mark.parametrize(
    "shape", [(2, 7, 64), (2, 9, 64), (1, 8, 64), (3, 8, 64), (2, 8, 63), (16, 64), (1, 2, 8, 64)]
)
def test_activations_of_another_shape_are_refused(
    entered: tuple[Any, CutEntry], shape: tuple[int, ...]
) -> None:
    top, entry = entered
    ids, mask = texts_and_mask()
    entry.feed(torch.zeros(shape))
    with pytest.raises(ModelError, match=r"cut activations are .*, the batch is \(2, 8, 64\)"):
        top(input_ids=ids, attention_mask=mask)


def test_the_entry_takes_what_was_fed_last(entered: tuple[Any, CutEntry]) -> None:
    top, entry = entered
    ids, mask = texts_and_mask()
    source = torch.Generator().manual_seed(0)
    one, two = (torch.randn((2, 8, 64), generator=source) for _ in range(2))
    answers = []
    for hidden in (one, two, one):
        entry.feed(hidden)
        with torch.no_grad():
            answers.append(top(input_ids=ids, attention_mask=mask).logits)
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])


# --- training -----------------------------------------------------------------------------------

SPEC = TrainSpec(steps_per_round=10, batch_size=6, learning_rate=0.003)
LORA = {"lora": {"rank": 4, "targets": "all-linear"}}
SPF = {"spf": {"qkv": 0.5, "dense": 0.5}}
TUNINGS = {"lora": LORA, "spf": SPF, "both": {**LORA, **SPF}}


def tuning(name: str, **spf: Any) -> TuningSpec:
    values = TUNINGS[name]
    if spf:
        values = {**values, "spf": {**SPF["spf"], **spf}}
    return TuningSpec.model_validate(values)


def whole_model(
    folder: Path,
    task: str,
    what: TuningSpec,
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> tuple[Any, Task, Texts]:
    model = load_model(spec(folder, task), len(LABELS)).to(dtype)
    its_task = task_of(folder, task)
    tuned = apply_tuning(model, what, task, 5, first_block=CUT, **more)
    return tuned, its_task, its_task.encode(make_texts(40, 3))


def split_model(
    folder: Path, task: str, what: TuningSpec, dtype: torch.dtype = torch.float32, **more: Any
) -> tuple[Any, Task, Samples]:
    """The same with cut activations, which were made text by text."""
    where, its_task, texts = spec(folder, task), task_of(folder, task), make_texts(40, 3)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bottom = Bottom(load_part(where, len(LABELS), CUT, "bottom").to(wide), CUT)
    model = load_part(where, len(LABELS), CUT, "top", dtype=dtype)
    model = apply_tuning(model, what, task, 5, first_block=CUT, **more)
    sent: list[Contents] = []
    samples: list[Sample] = []
    for number, text in enumerate(texts):
        ids = torch.tensor([ids_of(its_task, text.text)])
        hidden = bottom(ids, torch.ones_like(ids))[0]
        sent.append(Contents(hidden, ids[0] if task == "causal-lm" else None))
        label = None if task == "causal-lm" else text.label
        samples.append(Sample("a", number, ids.shape[1], label))
    entry = CutEntry(model, CUT)
    data = Samples(samples, lambda sample: sent[sample.number], entry, its_task.pad_id)
    return model, its_task, data


def round_of(model: Any, task: Task, data: Dataset, number: int = 1) -> RoundResult:
    return local_round(model, task, data, SPEC, seed=7, round=number, site="a")


@pytest.mark.parametrize("task", ["classification", "label-words", "causal-lm"])
@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.usefixtures("float64")
def test_a_top_learns_exactly_what_the_whole_model_learns(
    deep_llama: Path, name: str, task: str
) -> None:
    whole, its_task, texts = whole_model(deep_llama, task, tuning(name), torch.float64)
    top, cut_task, samples = split_model(deep_llama, task, tuning(name), torch.float64)
    start = {n: t.clone() for n, t in trainable_state(whole).items()}
    mine = trainable_state(top)
    assert mine.keys() == start.keys()
    assert all(torch.equal(mine[n], t) for n, t in start.items())
    assert {t.dtype for t in start.values()} == {torch.float64}
    assert list(texts.lengths) == list(samples.lengths)
    expected, got = round_of(whole, its_task, texts), round_of(top, cut_task, samples)
    assert got.tokens == expected.tokens
    assert got.losses == pytest.approx(expected.losses, rel=1e-12)
    theirs, mine = trainable_state(whole), trainable_state(top)
    for n, tensor in theirs.items():
        moved = (tensor - start[n]).abs()
        assert float(moved.max()) > 5 * SPEC.learning_rate  # it did learn
        assert float((mine[n] - tensor).abs().max()) < 1e-9 * float(moved.max()), n
    one = evaluate(whole, its_task, texts, batch_size=7)
    two = evaluate(top, cut_task, samples, batch_size=7)
    assert (two.correct, two.total, two.predicted) == (one.correct, one.total, one.predicted)
    assert two.loss == pytest.approx(one.loss, rel=1e-12)


def one_gradient(model: Any, task: Task, examples: Any, start: Any) -> Tensor:
    """Loss and gradients of one batch with trained values of ``start``, as one vector."""
    state = trainable_state(model)
    for n, tensor in state.items():
        tensor.copy_(start[n])
    loss = task.loss(model, examples.batch(range(20)))
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(state)
    return torch.cat([loss.detach()[None], *(gradients[n].flatten() for n in sorted(gradients))])


@pytest.mark.parametrize("task", ["classification", "label-words", "causal-lm"])
@pytest.mark.parametrize("name", TUNINGS)
def test_a_top_in_float32_is_as_exact_as_the_whole_model(
    deep_llama: Path, name: str, task: str
) -> None:
    """Before any step: AdamW enlarges what float32 rounds, beyond every bound."""
    source = torch.Generator().manual_seed(4)
    whole = whole_model(deep_llama, task, tuning(name))
    start = {
        n: t + 0.05 * torch.randn(t.shape, generator=source)
        for n, t in trainable_state(whole[0]).items()
    }
    found = one_gradient(*split_model(deep_llama, task, tuning(name)), start)
    other = one_gradient(*whole, start)
    with in_float64():
        exact = one_gradient(*whole_model(deep_llama, task, tuning(name), torch.float64), start)
    assert as_near_as(found, other, exact), (distance(found, exact), distance(other, exact))


@pytest.mark.parametrize("name", TUNINGS)
def test_checkpointing_changes_no_loss(deep_llama: Path, name: str) -> None:
    """The entry gives the same activations to a block that is computed again."""
    results = []
    for on in (False, True):
        top, task, samples = split_model(deep_llama, "classification", tuning(name))
        if on:
            top.activation_checkpointing_enable()
        results.append((round_of(top, task, samples), trainable_state(top)))
    (one, state), (two, other) = results
    assert one == two
    assert all(torch.equal(other[n], tensor) for n, tensor in state.items())


@pytest.mark.parametrize("name", TUNINGS)
def test_a_bfloat16_top_learns_much_the_same(deep_llama: Path, name: str) -> None:
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        top, task, samples = split_model(deep_llama, "causal-lm", tuning(name), dtype)
        results.append(round_of(top, task, samples))
        assert {p.dtype for p in top.parameters() if not p.requires_grad} == {dtype}
        assert {t.dtype for t in trainable_state(top).values()} == {torch.float32}
    exact, rough = results
    assert exact.losses != rough.losses
    for a, b in zip(rough.losses, exact.losses, strict=True):
        assert math.isclose(a, b, rel_tol=0.05)


@pytest.mark.parametrize("select", ["l1-largest", "random", "gradient", "activation"])
def test_a_top_chooses_the_heads_that_the_whole_model_chooses(
    deep_llama: Path, select: str
) -> None:
    found = []
    for make_it in (whole_model, split_model):
        what = tuning("spf", select=select)
        plain, task, examples = make_it(deep_llama, "causal-lm", tuning("lora"))
        batch = examples.batch(range(6))
        model = plain.unload()  # LoRA off again: the bare model, and a task that fits it

        def calibrate(task: Task = task, model: Any = model, batch: Any = batch) -> Tensor:
            return task.loss(model, batch)

        tuned = apply_tuning(model, what, "causal-lm", 5, first_block=CUT, calibrate=calibrate)
        found.append(chosen_heads(tuned))
    assert found[0] == found[1]
    assert {name.split(".")[2] for name in found[0]} == {"2", "3"}


@pytest.mark.parametrize("name", TUNINGS)
def test_only_the_top_is_tuned(deep_llama: Path, name: str) -> None:
    whole, _, _ = whole_model(deep_llama, "classification", tuning(name))
    blocks = {n.split(".layers.")[1][0] for n in trainable_state(whole) if ".layers." in n}
    assert blocks == {"2", "3"}
    assert any(n.endswith("score.weight") for n in trainable_state(whole))


@pytest.mark.parametrize("key", ["lora", "spf"])
def test_tuning_blocks_that_run_at_the_sites_is_refused(deep_llama: Path, key: str) -> None:
    top = load_part(spec(deep_llama), len(LABELS), CUT, "top")
    what = TuningSpec.model_validate({key: {"layers": [1, 3]}})
    with pytest.raises(ConfigError) as caught:
        apply_tuning(top, what, "classification", 5, first_block=CUT)
    (problem,) = caught.value.problems
    assert problem.key == f"tuning.{key}.layers"
    assert problem.message == "names block 1, but blocks 0 to 1 run at the sites"


def test_padding_of_a_batch_is_zero_activations_behind_each_text(deep_llama: Path) -> None:
    _, _, samples = split_model(deep_llama, "causal-lm", tuning("spf"))
    short, long = min(samples.lengths), max(samples.lengths)
    batch = samples.batch([samples.lengths.index(short), samples.lengths.index(long)])
    assert short < long
    width = batch.input_ids.shape[1]
    assert width % 8 == 0
    assert batch.activations.shape == (2, width, 64)
    assert batch.activations.dtype == torch.float32
    assert not batch.activations[0, short:].any()
    assert batch.activations[0, :short].any(dim=1).all()
    assert batch.attention_mask.sum(dim=1).tolist() == [short, long]
    assert (batch.input_ids[0, short:] == 0).all()
    assert batch.labels is None


def test_a_batch_of_classes_shows_no_token(deep_llama: Path) -> None:
    _, _, samples = split_model(deep_llama, "classification", tuning("spf"))
    batch = samples.batch(range(5))
    assert batch.labels is not None
    assert batch.labels.tolist() == [text.label for text in make_texts(40, 3)[:5]]
    assert set(batch.input_ids[batch.attention_mask.bool()].tolist()) == {1}
