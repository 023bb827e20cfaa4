"""Trainings of a split model's top on cut activations, as stored jobs, and how they compare.

    job = TopJob("icd10", tuning={"preset": "spf-vo"}, seed=1, rate=4e-3, size=CPU)
    found = trained("recipes", [job], Place("demo/model", "demo/data"))
    difference(found_of_one_arm, found_of_another)       # paired by seed and by row

What ``methods.split.top_trainer`` does with a store's samples is done here with the same code, from
activations in memory. Accuracies are shares of test rows, or of held-out training rows where a rate
is chosen; never of rows that were trained on.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cut_data import CutData, CutSpec, cut_data
from sealtune.job.sections import HEAD, TrainSpec, TuningSpec
from sealtune.model.activations import Form
from sealtune.model.batches import step_batches
from sealtune.model.compute import Compute
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.trainable import trainable_parameters
from sealtune.model.training import evaluate, local_round
from sealtune.tuning.apply import apply_tuning
from stored_jobs import Settings, Stored, stored

SETS = ("icd10", "medmcqa-subject", "hpo", "drug-reviews", "pubmedqa")
MODEL = "SmolLM2-135M-Instruct"
TUNING_SEED = 100  # of the runs that a rate is chosen by
_CALIBRATION = 4  # batches, as in a split job


@dataclass(frozen=True)
class Size:
    """What a job trains and on how much; the longer it is, the more its accuracy says.

    Attributes:
        cut: blocks of SmolLM2-135M's 30 that have run before; the others are tuned.
        steps, batch: of training.
        train, test, held: rows; ``held`` of the training rows are kept out for rates.
        tokens: of a text at most; 0: as each set asks for.
        precision: ``train.precision``.
    """

    cut: int
    steps: int
    batch: int
    train: int
    test: int
    held: int
    tokens: int
    precision: str


CPU = Size(cut=29, steps=60, batch=8, train=360, test=200, held=120, tokens=16, precision="fp32")
CUDA = Size(
    cut=24, steps=300, batch=16, train=4800, test=1500, held=600, tokens=0, precision="autocast"
)
QUICK = replace(CPU, steps=12, train=96, test=60, held=32)


def size_here() -> Size:
    """What this machine does in reasonable time."""
    return CUDA if torch.cuda.is_available() else CPU


@dataclass(frozen=True)
class TopJob:
    """One training and its evaluation.

    Attributes:
        data: a demo set.
        tuning: ``[tuning]``.
        seed: of first values and of the order of batches.
        rate: learning rate of what is tuned in the blocks.
        head_rate: of the head.
        size: see ``Size``.
        form: of cut activations.
        choose: evaluate on held-out training rows, after half the steps.
    """

    data: str
    tuning: dict[str, Any]
    seed: int
    rate: float
    size: Size
    head_rate: float = 4e-3
    form: Form = "bf16"
    choose: bool = False

    @property
    def settings(self) -> Settings:
        """It as JSON, with its preset spelled out."""
        tuning = TuningSpec.model_validate(self.tuning).model_dump(
            mode="json", exclude_defaults=True
        )
        return {"model": MODEL, **asdict(self), "tuning": tuning}

    @property
    def train(self) -> TrainSpec:
        """``[train]``: 5 % warm-up, then cosine."""
        return TrainSpec.model_validate(
            {
                "steps_per_round": self.size.steps // (2 if self.choose else 1),
                "batch_size": self.size.batch,
                "learning_rate": self.rate,
                "head_learning_rate": self.head_rate,
                "schedule": "cosine",
                "warmup": 0.05,
                "precision": self.size.precision,
            }
        )


@dataclass(frozen=True)
class Place:
    """Folders of the model and of the demo sets; results do not depend on them."""

    model: str
    data: str


def trained(
    table: str,
    jobs: Sequence[TopJob],
    place: Place,
    *,
    workers: int = 1,
    fresh: bool = False,
) -> list[Stored]:
    """What came of each job; see ``stored_jobs.stored`` and ``train_top``."""
    run = partial(train_top, place)
    return stored(table, [job.settings for job in jobs], run, workers=workers, fresh=fresh)


def train_top(place: Place, settings: Settings) -> dict[str, Any]:
    """Train and evaluate.

    Returns:
        ``accuracy``; ``right``, one digit for each row; ``trainable`` parameters without the head.
    """
    size = Size(**settings["size"])
    values = {key: value for key, value in settings.items() if key != "model"}
    job = TopJob(**{**values, "size": size})
    spec = CutSpec(
        job.data, size.train, size.test, size.cut, job.form, place.model, place.data, size.tokens
    )
    data, tokenizer = _data(spec)
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    compute = Compute.open(device, size.precision)  # type: ignore[arg-type]
    top = compute.place(deepcopy(_top(spec, len(data.labels))))
    entry, task = CutEntry(top, size.cut), compute.task(data.task(tokenizer))
    kept = len(data.train) - size.held
    train = data.samples(data.train[:kept], entry, task)
    test = data.samples(data.train[kept:] if job.choose else data.test, entry, task)

    def calibrate() -> Iterator[Tensor]:
        batches = step_batches(train.lengths, size.batch, 0, _CALIBRATION, job.seed, "all")
        for chosen in batches:
            yield task.loss(top, replace(train.batch(chosen), shows_padding=True))

    def warm(model: Any, steps: int) -> None:
        few = job.train.model_copy(update={"steps_per_round": steps})
        local_round(model, task, train, few, seed=job.seed, round=1, site="warm")

    model = apply_tuning(
        top,
        TuningSpec.model_validate(job.tuning),
        "classification",
        job.seed,
        first_block=size.cut,
        calibrate=calibrate,
        warm=warm,
    )
    result = local_round(model, task, train, job.train, seed=job.seed, round=1, site="all")
    found = evaluate(model, task, test, batch_size=64)
    truth = [sample.label for sample in test.samples]
    right = [a == b for a, b in zip(found.predicted, truth, strict=True)]
    blocks = {n: p for n, p in trainable_parameters(model).items() if f".{HEAD}." not in f".{n}"}
    return {
        "accuracy": found.correct / found.total,
        "loss": round(found.loss, 4),
        "train_loss": round(result.train_loss, 4),
        "right": "".join(str(int(one)) for one in right),
        "trainable": sum(p.numel() for p in blocks.values()),
        "majority": max(map(truth.count, set(truth))) / len(truth),
    }


@cache
def _data(spec: CutSpec) -> tuple[CutData, Any]:
    return cut_data(spec), load_tokenizer(spec.model_spec)


@cache
def _top(spec: CutSpec, labels: int) -> Any:
    return load_part(spec.model_spec, labels, spec.cut, "top")


@dataclass(frozen=True)
class Gap:
    """A mean difference of accuracies, in points, and what it may be off by.

    Attributes:
        mean: over seeds and rows.
        over_seeds: standard error of the mean over seeds; None: there is one.
        over_rows: standard error of the mean over test rows.
    """

    mean: float
    over_seeds: float | None
    over_rows: float

    def __str__(self) -> str:
        """``+0.43 (0.27 0.41)``."""
        seeds = "-" if self.over_seeds is None else f"{self.over_seeds:.2f}"
        return f"{self.mean:+.2f} ({seeds} {self.over_rows:.2f})"


def difference(ones: Sequence[Stored], others: Sequence[Stored]) -> Gap:
    """Of two arms on one set, paired by seed and by row."""
    gaps = 100 * np.array([_right(a) - _right(b) for a, b in zip(ones, others, strict=True)])
    seeds = gaps.mean(axis=1)  # gaps is [seeds, rows]
    over_seeds = float(statistics.stdev(seeds) / len(seeds) ** 0.5) if len(seeds) > 1 else None
    rows = gaps.mean(axis=0)
    return Gap(float(seeds.mean()), over_seeds, float(rows.std(ddof=1) / len(rows) ** 0.5))


def mean_gap(gaps: Sequence[Gap]) -> Gap:
    """The mean over sets, whose errors are independent."""
    count = len(gaps)
    rows = sum(gap.over_rows**2 for gap in gaps) ** 0.5 / count
    known = [gap.over_seeds for gap in gaps if gap.over_seeds is not None]
    seeds = sum(error**2 for error in known) ** 0.5 / count if len(known) == count else None
    return Gap(statistics.mean(gap.mean for gap in gaps), seeds, rows)


def accuracy_cell(jobs: Sequence[Stored]) -> str:
    """``71.2 (70.1-72.0)``: mean, lowest and highest of the seeds, in percent."""
    values = [100 * job.figures["accuracy"] for job in jobs]
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _right(job: Stored) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([int(digit) for digit in job.figures["right"]], dtype=float)


def fetch(place: Place, sets: Sequence[str]) -> None:
    """Make the sets that are not there."""
    from sealtune.demo.data_sets import DATA_SETS

    for name in sets:
        DATA_SETS[name].make(Path(place.data) / name, lambda said: None)
