"""Cut activations of a demo data set, made once and kept: what the split benchmarks train on.

    data = cut_data(CutSpec("icd10", train=2000, test=1000, cut=24, form="bf16"))
    task = data.task(tokenizer)
    local_round(top, task, data.samples(data.train, entry, task), ...)

Files lie below ``cache_folder() / "benchmarks"``, one safetensors file for each form. A file's name
follows from the model's digest, the data files' digests, cut, form and numbers of rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sealtune.job.cache import cache_folder
from sealtune.job.spec import ModelSpec
from sealtune.job.storage import locked, write_atomic
from sealtune.model.activations import Form, pack, unpack
from sealtune.model.batches import sorted_batches
from sealtune.model.cut import CutEntry
from sealtune.model.files import model_digest
from sealtune.model.load import load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.samples import Contents, Sample, Samples
from sealtune.model.tasks import Task, make_task
from sealtune.owner.bottom import Bottom

MAX_TOKENS = {
    "icd10": 32,
    "hpo": 64,
    "medmcqa-subject": 64,
    "pubmedqa": 128,
    "drug-reviews": 128,
}
_FORMAT = 1


class Row(NamedTuple):
    """One text with its class number."""

    text: str
    label: int
    row: int = 0


@dataclass(frozen=True)
class CutSpec:
    """Which activations: the first rows of a demo set, at a cut, in a form.

    Attributes:
        name: of the demo set.
        train: number of training rows, at most.
        test: number of test rows, at most.
        cut: blocks in the bottom.
        form: how activations are written.
        model: folder of the backbone.
        data: folder that holds the demo sets.
        tokens: longer texts are cut; 0: to the set's ``MAX_TOKENS``.
    """

    name: str
    train: int
    test: int
    cut: int
    form: Form
    model: str = "demo/model"
    data: str = "demo/data"
    tokens: int = 0

    @property
    def max_tokens(self) -> int:
        """At which texts are cut."""
        return self.tokens or MAX_TOKENS[self.name]

    @property
    def model_spec(self) -> ModelSpec:
        """The backbone with a classification head."""
        return ModelSpec(path=self.model, task="classification")

    def file(self) -> Path:
        """Where the activations are kept."""
        return benchmark_cache() / f"cut-{self.name}-{self.form}-{_key(self)[:16]}.safetensors"


@dataclass(frozen=True)
class CutData:
    """Samples of both parts, and what was sent of them.

    Attributes:
        spec: what they are.
        labels: class names in the order of their numbers.
        train: training samples.
        test: test samples.
    """

    spec: CutSpec
    labels: tuple[str, ...]
    train: list[Sample]
    test: list[Sample]
    packed: dict[str, list[memoryview]]
    width: int

    def read(self, sample: Sample) -> Contents:
        """The contents of one sample, as the server enclave unpacks them."""
        data = self.packed[sample.site][sample.number]
        return Contents(unpack(data, self.spec.form, self.width), None)

    def task(self, tokenizer: Any) -> Task:
        """The classification task."""
        return text_task(self.spec, tokenizer, self.labels)

    def samples(self, samples: Sequence[Sample], entry: CutEntry, task: Task) -> Samples:
        """Some samples, as they enter a top."""
        return Samples(samples, self.read, entry, task.pad_id)


def benchmark_cache() -> Path:
    """The benchmarks' part of the cache; made if it is not there."""
    folder = cache_folder() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cut_data(spec: CutSpec) -> CutData:
    """Read the activations, making them first if they are not there."""
    if not spec.file().is_file():
        with locked(spec.file()):  # workers ask for the same at once
            make_cut_data(spec, (spec.form,))
    return _read(spec)


def make_cut_data(spec: CutSpec, forms: Sequence[Form]) -> None:
    """Run the bottom once and write a file for each of ``forms`` that is not there yet."""
    wanted = [replace(spec, form=form) for form in forms]
    wanted = [one for one in wanted if not one.file().is_file()]
    if not wanted:
        return
    labels = label_names(spec)
    task = text_task(spec, load_tokenizer(spec.model_spec), labels)
    bottom = Bottom(load_part(spec.model_spec, len(labels), spec.cut, "bottom"), spec.cut)
    tensors: dict[Form, dict[str, Tensor]] = {one.form: {} for one in wanted}
    for part, count in (("train", spec.train), ("test", spec.test)):
        rows = text_rows(spec, part, labels, count)
        hidden = _activations(task, bottom, rows)
        for form in tensors:
            tensors[form] |= _as_tensors(part, rows, hidden, form)
    text = {"labels": json.dumps(labels), "width": str(hidden[0].shape[1])}
    for one in wanted:
        write_atomic(one.file(), save(tensors[one.form], metadata=text))


@cache
def _key(spec: CutSpec) -> str:
    """Hex digest of everything that the contents follow from."""
    folder = Path(spec.data) / spec.name
    files = [(folder / f"{part}.jsonl").read_bytes() for part in ("train", "test")]
    parts = {
        "format": _FORMAT,
        "name": spec.name,
        "rows": [spec.train, spec.test],
        "cut": spec.cut,
        "form": spec.form,
        "max_tokens": spec.max_tokens,
        "model": model_digest(spec.model_spec),
        "data": [hashlib.sha256(file).hexdigest() for file in files],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def text_task(spec: CutSpec, tokenizer: Any, labels: Sequence[str]) -> Task:
    """The classification task of a demo set."""
    tokens = spec.max_tokens
    return make_task(
        "classification", tokenizer, max_tokens=tokens, template="{text}", labels=labels
    )


def _lines(spec: CutSpec, part: str) -> list[dict[str, str]]:
    path = Path(spec.data) / spec.name / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def label_names(spec: CutSpec) -> tuple[str, ...]:
    """Sorted labels of the whole training file."""
    return tuple(sorted({line["label"] for line in _lines(spec, "train")}))


def text_rows(spec: CutSpec, part: str, labels: Sequence[str], count: int) -> list[Row]:
    """The first ``count`` rows of a part."""
    number = {label: i for i, label in enumerate(labels)}
    return [Row(line["text"], number[line["label"]]) for line in _lines(spec, part)[:count]]


def _activations(task: Task, bottom: Bottom, rows: Sequence[Row]) -> list[Tensor]:
    """The bottom's output of each row, float32 [T, D], without padding."""
    texts = task.encode(rows)
    found: dict[int, Tensor] = {}
    for chosen in sorted_batches(texts.lengths, 32):
        batch = texts.batch(chosen)
        hidden = bottom(batch.input_ids, batch.attention_mask)
        found |= {i: hidden[k, : texts.lengths[i]].clone() for k, i in enumerate(chosen)}
    return [found[i] for i in range(len(rows))]


def _as_tensors(
    part: str, rows: Sequence[Row], hidden: Sequence[Tensor], form: Form
) -> dict[str, Tensor]:
    """Packed bytes end to end, where each sample ends, lengths in tokens, and class numbers."""
    packed = [pack(one, form) for one in hidden]
    ends = torch.tensor([len(one) for one in packed]).cumsum(0)
    return {
        f"{part}.bytes": torch.frombuffer(bytearray(b"".join(packed)), dtype=torch.uint8),
        f"{part}.ends": ends,
        f"{part}.tokens": torch.tensor([len(one) for one in hidden]),
        f"{part}.labels": torch.tensor([row.label for row in rows]),
    }


def _read(spec: CutSpec) -> CutData:
    samples: dict[str, list[Sample]] = {}
    packed: dict[str, list[memoryview]] = {}
    with safe_open(spec.file(), framework="pt") as file:
        text = file.metadata()
        for part in ("train", "test"):
            raw = memoryview(file.get_tensor(f"{part}.bytes").numpy()).cast("B")
            ends = [0, *file.get_tensor(f"{part}.ends").tolist()]
            packed[part] = [raw[a:b] for a, b in pairwise(ends)]
            tokens = file.get_tensor(f"{part}.tokens").tolist()
            labels = file.get_tensor(f"{part}.labels").tolist()
            samples[part] = [
                Sample(part, i, count, label)
                for i, (count, label) in enumerate(zip(tokens, labels, strict=True))
            ]
    names = tuple(json.loads(text["labels"]))
    return CutData(spec, names, samples["train"], samples["test"], packed, int(text["width"]))
