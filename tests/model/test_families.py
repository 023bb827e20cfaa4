"""Every family of decoders against transformers' own logits: alone, through a cut, and merged.

Models are float64, so that nothing but a wrong formula can make a difference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from sealtune.errors import UnsupportedModelError
from sealtune.job.sections import LoraSpec, TuningSpec
from sealtune.model.compute import Compute
from sealtune.model.cut import CutEntry
from sealtune.model.frozen_prefix import FrozenPrefix
from sealtune.model.load import load_model, quiet
from sealtune.model.partial import load_part
from sealtune.model.samples import Contents, CutBatch, Sample, Samples
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import CausalLM, LabelWords, Task
from sealtune.model.texts import Batch
from sealtune.owner.bottom import Bottom
from sealtune.plan.planner import make_plan
from sealtune.plan.steady import steady_blocks
from sealtune.tuning.folder import load_adapter
from sealtune.tuning.merge import merge_adapter
from tests.float64 import in_float64
from tests.model.families import FAMILIES, make_family
from tests.model.test_cut import CUT, split_job
from tests.model.test_load import spec
from tests.model.test_merge import make_adapter, silent
from tests.model.test_tasks import task_of
from tests.model.tiny import Text, batch_of, ids_of, make_texts

UNCUT = ("opt", "gptj", "codegen", "falcon", "bloom", "mpt")
TOLERANCE = 1e-5  # scores are handed on as float32, and some families keep float32 buffers
FolderOf = Callable[[str], Path]
TEXTS = make_texts(5, 3)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a family's model, made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = make_family(name, tmp_path_factory.mktemp(name) / "model")
        return made[name]

    return folder


def theirs(folder: Path, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, float64 [B, T, V], by transformers alone, with the token ids and lengths."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    batch = batch_of(task, TEXTS)
    with torch.no_grad():
        result = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return result.logits, batch.input_ids, batch.lengths


def expected_scores(folder: Path, task: LabelWords) -> Tensor:
    logits, _, lengths = theirs(folder, task)
    return logits[torch.arange(len(lengths)), lengths - 1][:, task.words]


def expected_loss(folder: Path, task: Task) -> float:
    logits, ids, lengths = theirs(folder, task)
    parts = [
        functional.cross_entropy(logits[i, : n - 1], ids[i, 1:n], reduction="sum")
        for i, n in enumerate(lengths.tolist())
    ]
    return float(sum(parts)) / int((lengths - 1).sum())


def check(model: Any, folder: Path, batch_of: Callable[[Task, Sequence[Text]], Batch]) -> None:
    """Evaluation, prediction and training loss of both tasks that use the output matrix."""
    words = task_of(folder, "label-words")
    assert isinstance(words, LabelWords)
    expected = expected_scores(folder, words)
    labels = torch.tensor([text.label for text in TEXTS])
    task: Task = words
    batch = batch_of(task, TEXTS)
    with torch.no_grad():
        got, outcome = task.scores(model, batch), task.outcome(model, batch)
    assert float((got - expected).abs().max()) < TOLERANCE
    assert outcome.predicted == tuple(expected.argmax(1).tolist())
    assert float(task.loss(model, batch)) == pytest.approx(
        float(functional.cross_entropy(expected, labels)), rel=TOLERANCE
    )
    plain = task_of(folder, "causal-lm", labels=())
    assert isinstance(plain, CausalLM)
    logits, _, lengths = theirs(folder, plain)
    task = plain
    batch = batch_of(task, TEXTS)
    assert float(task.loss(model, batch)) == pytest.approx(
        expected_loss(folder, plain), rel=TOLERANCE
    )
    with torch.no_grad():
        following = task.next_tokens(model, batch)
    ends = logits[torch.arange(len(lengths)), lengths - 1]
    assert following.tolist() == ends.argmax(1).tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_model(folder_of: FolderOf, name: str) -> None:
    folder = folder_of(name)
    check(load_model(spec(folder, "causal-lm"), None).double(), folder, batch_of)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in UNCUT])
def test_through_a_cut(folder_of: FolderOf, name: str) -> None:
    folder = folder_of(name)
    where = spec(folder, "causal-lm")
    bottom = Bottom(load_part(where, None, CUT, "bottom", dtype=torch.float64), CUT)
    top = load_part(where, None, CUT, "top", dtype=torch.float64)
    entry = CutEntry(top, CUT)

    def through(task: Task, texts: Sequence[Text]) -> Batch:
        """What the bottom makes of the texts; activations stay float64."""
        sent, samples = [], []
        for number, text in enumerate(texts):
            ids = torch.tensor(ids_of(task, text.text))
            hidden = bottom(ids[None], torch.ones_like(ids)[None])[0]
            sent.append(Contents(hidden, ids if task.name == "causal-lm" else None))
            samples.append(Sample("north", number, len(ids), text.label))
        data = Samples(samples, lambda sample: sent[sample.number], entry, task.pad_id)
        with in_float64():
            return data.batch(range(len(samples)))

    check(top, folder, through)


class _Double(Compute):
    """On the processor, in float64."""

    dtype = torch.float64


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_blocks_by_themselves(folder_of: FolderOf, name: str) -> None:
    """What they make of a text enters the rest in the place of the text."""
    where = spec(folder_of(name), "causal-lm")
    tuned = load_model(where, None, meta=True)
    _, blocks = find_blocks(tuned)
    if name in UNCUT:  # blocks that give out more, or that no plan can be made of
        with contextlib.suppress(UnsupportedModelError):
            assert steady_blocks(tuned, blocks) == 0
        return
    assert steady_blocks(tuned, blocks) == len(blocks)
    model = load_model(where, None).double()
    prefix = FrozenPrefix(model, CUT, _Double())

    def through(task: Task, texts: Sequence[Text]) -> Batch:
        batch = batch_of(task, texts)
        entering = prefix(batch)
        return CutBatch(batch.input_ids, batch.lengths, batch.labels, entering, prefix.entry)

    check(model, folder_of(name), through)


@pytest.mark.parametrize("name", UNCUT)
def test_what_cannot_be_cut_is_refused_by_name(folder_of: FolderOf, name: str) -> None:
    with pytest.raises(UnsupportedModelError):
        make_plan(split_job(spec(folder_of(name), "causal-lm")), None)


# a bias, a cap, a scale; tied; stored transposed; one matrix for query, key and value
@pytest.mark.parametrize("name", ["phi", "gemma2", "granite", "cohere", "gpt2", "phi3"])
def test_merged(folder_of: FolderOf, tmp_path: Path, name: str) -> None:
    tuning = TuningSpec(lora=LoraSpec(rank=2, targets="all-linear"))
    adapter = make_adapter(folder_of(name), tmp_path / "adapter", "label-words", tuning)
    merge_adapter(adapter, tmp_path / "merged", say=silent)
    loaded = load_adapter(adapter)
    task = loaded.task
    assert isinstance(task, LabelWords)
    with torch.no_grad():
        got = task.scores(loaded.model.double(), batch_of(task, TEXTS))
    expected = expected_scores(tmp_path / "merged", task)
    # merged weights are float32: the product of A and B is rounded into them
    assert float((got - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    before = expected_scores(folder_of(name), task)
    assert float((got - before).abs().max()) > 1e-2 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["granite", "cohere", "codegen"])
def test_a_family_without_a_classification_head_says_so(folder_of: FolderOf, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="label-words"):
        load_model(spec(folder_of(name)), 3)
