"""States below the last linear layer (``sealtune.audit.last_layer``) of a demo set, kept.

    data = last_states(CutSpec("icd10", train=4000, test=2000, cut=0, form="bf16"))
    top = Top(spec.model_spec, data.labels, seed=1)

Files lie below ``cache_folder() / "benchmarks"``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from cut_data import CutSpec, benchmark_cache, label_names, text_rows, text_task
from sealtune.audit.last_layer import States, states_of
from sealtune.job.storage import write_atomic
from sealtune.model.load import load_model, load_tokenizer


@dataclass(frozen=True)
class LastStates:
    """Both parts of a data set, and its class names."""

    labels: tuple[str, ...]
    train: States
    test: States


def last_states(spec: CutSpec) -> LastStates:
    """Read the states, computing them first if they are not there.

    Args:
        spec: which rows of which model; its cut and form are those of nothing here.
    """
    file = benchmark_cache() / f"layer-{spec.file().stem.removeprefix('cut-')}.safetensors"
    if not file.is_file():
        labels, tensors = _compute(spec)
        write_atomic(file, save(tensors, metadata={"labels": json.dumps(labels)}))
    with safe_open(file, framework="pt") as opened:
        labels = tuple(json.loads(opened.metadata()["labels"]))
        train, test = (
            States(*(opened.get_tensor(f"{part}.{key}") for key in ("states", "inner", "labels")))
            for part in ("train", "test")
        )
    return LastStates(labels, train, test)


def _compute(spec: CutSpec) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    task = text_task(spec, load_tokenizer(spec.model_spec), label_names(spec))
    model = load_model(spec.model_spec, len(task.labels))
    tensors: dict[str, Tensor] = {}
    for part, count in (("train", spec.train), ("test", spec.test)):
        found = states_of(model, task.encode(text_rows(spec, part, task.labels, count)))
        tensors |= {f"{part}.{key}": value for key, value in vars(found).items()}
    return task.labels, tensors
