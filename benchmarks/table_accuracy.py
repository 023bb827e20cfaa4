"""Table 1: accuracy of each way to an adapter, on five medical sets.

Each column's learning rate is that of its grid which does best on held-out training rows of one
more seed, of two sets together and in a third of the rounds; Method 1 takes the rate of the plain
run that it protects, Method 2 with LoRA the pooled one's. Rows are drawn, and dealt out to the
sites (Dirichlet), by the seed. Rates warm up in a twentieth of the steps and fall to zero (cosine);
the head has its own. Every column makes the same number of steps of as many rows, P-tuning half as
many: local and federated ``rounds * steps`` at each site, pooled and Method 2 all sites' steps.

    local       each site alone: the mean over the sites' adapters
    pooled      all rows in one place
    plain       FedAvg without enclaves or masks
    method-1    enclaves, masked products on an accelerator, checked aggregation
    method-2    split: sites send cut activations once, a server enclave tunes the rest
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from demo_rows import SETS, draw_rows, first_blocks
from in_process import run_job
from sealtune.baseline.run import run as run_baseline
from sealtune.job.compute_rules import Device
from sealtune.job.spec import Job
from stored_jobs import Settings, Stored, stored

TABLE = "table-1"
SITES = ("charity", "county", "university")
DEVICE: Device = "cuda" if torch.cuda.is_available() else "cpu"
HELD = 100  # seed of the trials that choose rates
Way = Literal["local", "pooled", "plain-federated", "method-1", "method-2"]


@dataclass(frozen=True)
class Size:
    """How much a job does; what is stored with it.

    Attributes:
        blocks: the model's first; None: all.
        tuned: the last of them are tuned by LoRA and SPF, and are the server's in Method 2.
        tokens: of a text at most.
        train, test: rows of all sites, at most.
        rounds, steps: of each site; a round's steps.
        batch: rows of a step.
        alpha: of the Dirichlet split.
    """

    blocks: int | None = 6
    tuned: int = 2
    tokens: int = 16
    train: int = 360
    test: int = 200
    rounds: int = 18
    steps: int = 3
    batch: int = 8
    alpha: float = 0.5


CPU = Size()
CUDA = Size(blocks=None, tuned=6, tokens=64, train=2000, test=1000, rounds=60, batch=16)
TUNED_ON = ("icd10", "drug-reviews")  # sets that rates are chosen on: many classes, and three


@dataclass(frozen=True)
class Column:
    """One way with one tuner.

    Attributes:
        title: in the table.
        way: who trains where.
        tuning: of the job file, ``layers`` left out.
        rates: of the grid; of another column's, where ``tuned_as`` names it.
        tuned_as: the column whose rate this one takes.
        head_rate: learning rate of the head; less where there are as many steps as sites together.
        halved: it does half the rounds, as each step goes through all blocks, both ways.
    """

    title: str
    way: Way
    tuning: Mapping[str, Any]
    rates: tuple[float, ...] = ()
    tuned_as: str = ""
    head_rate: float = 1e-2
    halved: bool = False


LORA = {"lora": {"rank": 8}}
PTUNING = {"ptuning": {"virtual_tokens": 16}}
SPF = {"preset": "spf-vo", "lora": {}, "spf": {}}
COLUMNS = {
    "local": Column("local, LoRA", "local", LORA, (5e-4, 2e-3)),
    "pooled": Column("pooled, LoRA", "pooled", LORA, (5e-4, 2e-3), head_rate=3e-3),
    "plain-lora": Column("plain federated, LoRA", "plain-federated", LORA, (5e-4, 2e-3)),
    "plain-ptuning": Column(
        "plain federated, P-tuning v2", "plain-federated", PTUNING, (3e-3, 1e-2), halved=True
    ),
    "method-1-lora": Column("Method 1, LoRA", "method-1", LORA, tuned_as="plain-lora"),
    "method-1-ptuning": Column(
        "Method 1, P-tuning v2", "method-1", PTUNING, tuned_as="plain-ptuning", halved=True
    ),
    "method-2-lora": Column("Method 2, LoRA", "method-2", LORA, tuned_as="pooled", head_rate=3e-3),
    "method-2-spf": Column("Method 2, SPF + LoRA", "method-2", SPF, (5e-4, 2e-3), head_rate=3e-3),
}
FLOORS = ("majority", "tf-idf")


@dataclass(frozen=True)
class Places:
    """Folders of the model and of the data sets."""

    model: Path
    data: Path


# --- one job ------------------------------------------------------------------------------------


def work(places: Places, settings: Settings) -> dict[str, Any]:
    """One job's shares of right answers: ``all``, ``own`` (mean over sites) and ``loss``."""
    with tempfile.TemporaryDirectory(prefix="table-") as name:
        folder, size = Path(name), Size(**settings["size"])
        seed, held = settings["seed"], settings["seed"] == HELD
        rows = draw_rows(
            places.data / settings["set"], folder, train=size.train, test=size.test, seed=seed,
            held=held,
        )  # fmt: skip
        if settings["column"] in FLOORS:
            return floor(settings["column"], rows.train, rows.test)
        values = job_values(settings, size, first_blocks(places.model, size.blocks))
        values["data"] |= {"train": rows.train, "test": rows.test, "labels": rows.labels}
        return _shares(Job.model_validate(values), COLUMNS[settings["column"]].way, folder / "run")


def job_values(settings: Settings, size: Size, model: Path) -> dict[str, Any]:
    """The job of some settings, without its data's files."""
    column = COLUMNS[settings["column"]]
    blocks = size.blocks or 30
    top = list(range(blocks - size.tuned, blocks))
    tuning = {
        key: {**value, "layers": top} if key in ("lora", "spf") else value
        for key, value in column.tuning.items()
    }
    steps, rounds = size.steps, size.rounds
    values = {
        "job": {"name": "table", "seed": settings["seed"], "rounds": rounds},
        "model": {"path": str(model), "task": "classification"},
        "data": {"max_tokens": size.tokens},
        "sites": {"names": SITES, "partition": "dirichlet", "alpha": size.alpha},
        "tuning": tuning,
        "train": {"steps_per_round": steps, "batch_size": size.batch,
                  "learning_rate": settings["rate"], "head_learning_rate": column.head_rate,
                  "schedule": "cosine", "warmup": 0.05},
        "privacy": {"site_metrics": True},
    }  # fmt: skip
    if column.way == "method-2":
        values["job"] |= {"method": "split", "rounds": 1}
        values["split"] = {"cut": top[0]}
        if DEVICE == "cuda":
            values["protection"] = {"compute": "attested-gpu"}
        values["train"]["steps_per_round"] = steps * rounds * len(SITES)
    return values


def floor(name: str, train: Path, test: Path) -> dict[str, Any]:
    """What needs no model: the largest class, or words and pairs of words."""
    from sklearn.dummy import DummyClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if name == "majority":
        model = DummyClassifier()
    else:
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
        model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
    parts = [[json.loads(line) for line in file.read_text().splitlines()] for file in (train, test)]
    (texts, labels), (asked, answers) = (
        ([row["text"] for row in rows], [row["label"] for row in rows]) for rows in parts
    )
    return {"all": float(model.fit(texts, labels).score(asked, answers))}


def _shares(job: Job, way: Way, folder: Path) -> dict[str, Any]:
    if way in ("method-1", "method-2"):
        outcome = run_job(job, folder)
        final = outcome.of("final")[0]
        sites = [one for one in final["sites"].values() if one["total"]]
        everywhere, loss = final["correct"] / final["total"], final["loss"]
        own = [one["correct"] / one["total"] for one in sites]
        sent = {"up": outcome.up, "down": outcome.down}
    else:
        report = run_baseline(job, way, folder, quiet=True, device=DEVICE)
        sites = [one for one in report["per_site"].values() if one["total"]]
        everywhere = report["accuracy_after"]
        rows = sum(one["total"] for one in sites)
        loss = sum(one["loss"] * one["total"] for one in sites) / rows
        own, sent = [one["accuracy"] for one in sites], {}
    return {"all": everywhere, "own": statistics.fmean(own), "loss": loss, **sent}


# --- all of them --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Which jobs: sets, columns, seeds, and how much each does."""

    size: Size
    sets: tuple[str, ...] = SETS
    columns: tuple[str, ...] = tuple(COLUMNS)
    seeds: tuple[int, ...] = (1, 2, 3)
    tuned_on: tuple[str, ...] = TUNED_ON

    def settings(self, name: str, column: str, seed: int, rate: float | None = None) -> Settings:
        """Of one job; those of a trial, which has a seed of its own, do a third of the rounds."""
        size, found = self.size, {"set": name, "column": column, "seed": seed}
        if seed == HELD:
            size = replace(size, rounds=max(1, size.rounds // 3))
        if column in COLUMNS:
            own = COLUMNS[column]
            size = replace(size, rounds=max(1, size.rounds // (1 + own.halved)))
            found |= {"rate": rate, "head_rate": own.head_rate, "tuning": own.tuning}
        return found | {"size": asdict(size)}

    def trials(self, column: str) -> list[Settings]:
        """The jobs that choose a column's rate."""
        tuned = COLUMNS[column].tuned_as or column
        return [
            self.settings(name, tuned, HELD, rate)
            for rate in COLUMNS[tuned].rates
            for name in self.tuned_on
        ]

    def jobs(self, rates: Mapping[str, float]) -> list[Settings]:
        """All others, seed by seed, so that one cut short has figures of every set."""
        return [
            self.settings(name, column, seed, rates.get(column))
            for seed in self.seeds
            for column in (*FLOORS, *self.columns)
            for name in self.sets
        ]


def accuracies(
    wanted: Wanted, places: Places, *, table: str = TABLE, workers: int = 1, fresh: bool = False
) -> list[Stored]:
    """Every job's result, without trials.

    Args:
        table: name of the stored jobs.
    """
    run = partial(stored, table, run=partial(work, places), workers=workers, fresh=fresh)
    trials = {column: wanted.trials(column) for column in wanted.columns}
    every = list(chain.from_iterable(trials.values()))
    tried = {_trial(job.settings): job for job in run(every)}
    rates = {column: best([tried[_trial(one)] for one in own]) for column, own in trials.items()}
    return run(wanted.jobs(rates))


def _trial(settings: Settings) -> tuple[Any, ...]:
    return settings["set"], settings["column"], settings["rate"]


def best(trials: Sequence[Stored]) -> float:
    """The rate with most right answers on held-out rows, mean over sets; then with least loss."""
    rates = dict.fromkeys(job.settings["rate"] for job in trials)

    def score(rate: float) -> tuple[float, float]:
        own = [job.figures for job in trials if job.settings["rate"] == rate]
        return statistics.fmean(o["all"] for o in own), -statistics.fmean(o["loss"] for o in own)

    return float(max(rates, key=score))
