"""Table 1: accuracy of each way to an adapter, on five medical sets.

Each column's learning rate is that of its grid which does best on held-out training rows of one
more seed; Method 1 takes the rate of the plain run that it protects. Rows are drawn, and dealt out
to the sites (Dirichlet), by the seed. Every column makes the same number of steps of as many rows:
local and federated ``rounds * steps`` at each site, pooled and Method 2 all sites' steps.

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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from demo_rows import SETS, draw_rows, first_blocks
from in_process import run_job
from sealtune.baseline.run import run as run_baseline
from sealtune.job.spec import Job
from stored_jobs import Settings, Stored, stored

TABLE = "table-1"
SITES = ("charity", "county", "university")
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

    blocks: int | None = 8
    tuned: int = 3
    tokens: int = 16
    train: int = 600
    test: int = 300
    rounds: int = 12
    steps: int = 4
    batch: int = 8
    alpha: float = 0.5


CPU = Size()
CUDA = Size(blocks=None, tuned=6, tokens=64, train=2000, test=1000, rounds=25, batch=16)


@dataclass(frozen=True)
class Column:
    """One way with one tuner.

    Attributes:
        title: in the table.
        way: who trains where.
        tuning: of the job file, ``layers`` left out.
        rates: of the grid; of another column's, where ``tuned_as`` names it.
        tuned_as: the column whose rate this one takes.
    """

    title: str
    way: Way
    tuning: Mapping[str, Any]
    rates: tuple[float, ...] = ()
    tuned_as: str = ""


LORA = {"lora": {"rank": 8}}
PTUNING = {"ptuning": {"virtual_tokens": 16}}
SPF = {"lora": {"rank": 8}, "spf": {"qkv": 0.25, "dense": 0.25}}
COLUMNS = {
    "local": Column("local, LoRA", "local", LORA, (1e-3, 3e-3, 1e-2)),
    "pooled": Column("pooled, LoRA", "pooled", LORA, (1e-3, 3e-3, 1e-2)),
    "plain-lora": Column("plain federated, LoRA", "plain-federated", LORA, (3e-3, 1e-2, 3e-2)),
    "plain-ptuning": Column(
        "plain federated, P-tuning v2", "plain-federated", PTUNING, (3e-3, 1e-2, 3e-2)
    ),
    "method-1-lora": Column("Method 1, LoRA", "method-1", LORA, tuned_as="plain-lora"),
    "method-1-ptuning": Column(
        "Method 1, P-tuning v2", "method-1", PTUNING, tuned_as="plain-ptuning"
    ),
    "method-2-lora": Column("Method 2, LoRA", "method-2", LORA, (1e-3, 3e-3, 1e-2)),
    "method-2-spf": Column("Method 2, SPF + LoRA", "method-2", SPF, (1e-3, 3e-3, 1e-2)),
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
    tuning = {k: dict(v) for k, v in column.tuning.items()}
    for name in ("lora", "spf"):
        if name in tuning:
            tuning[name]["layers"] = top
    steps, rounds = size.steps, size.rounds
    values = {
        "job": {"name": "table", "seed": settings["seed"], "rounds": rounds},
        "model": {"path": str(model), "task": "classification"},
        "data": {"max_tokens": size.tokens},
        "sites": {"names": SITES, "partition": "dirichlet", "alpha": size.alpha},
        "tuning": tuning,
        "train": {"steps_per_round": steps, "batch_size": size.batch,
                  "learning_rate": settings["rate"]},
        "privacy": {"site_metrics": True},
    }  # fmt: skip
    if column.way == "method-2":
        values["job"] |= {"method": "split", "rounds": 1}
        values["split"] = {"cut": top[0]}
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
        report = run_baseline(job, way, folder, quiet=True)
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
    quick: bool = False

    def settings(self, name: str, column: str, seed: int, rate: float | None = None) -> Settings:
        """Of one job."""
        tried = {} if rate is None else {"rate": rate}
        return {"set": name, "column": column, "seed": seed, **tried, "size": asdict(self.size)}

    def trials(self, name: str, column: str) -> list[Settings]:
        """The jobs that choose a column's rate on a set."""
        tuned = COLUMNS[column].tuned_as or column
        rates = COLUMNS[tuned].rates
        return [self.settings(name, tuned, HELD, rate) for rate in rates]


def accuracies(wanted: Wanted, places: Places, *, workers: int, fresh: bool) -> list[Stored]:
    """Every job's result; trials first, then seed by seed."""
    do = partial(work, places)
    trials = [
        trial
        for name in wanted.sets
        for column in wanted.columns
        if not COLUMNS[column].tuned_as
        for trial in wanted.trials(name, column)
    ]
    tried = {
        _word(job.settings): job for job in stored(TABLE, trials, do, workers=workers, fresh=fresh)
    }
    rates = {
        (name, column): best([tried[_word(trial)] for trial in wanted.trials(name, column)])
        for name in wanted.sets
        for column in wanted.columns
    }
    jobs = [
        wanted.settings(name, column, seed, rates.get((name, column)))
        for seed in wanted.seeds
        for column in (*FLOORS, *wanted.columns)
        for name in wanted.sets
    ]
    return stored(TABLE, jobs, do, workers=workers, fresh=fresh)


def best(trials: Sequence[Stored]) -> float:
    """The rate that answers most held-out rows rightly; of equal ones, that of the least loss."""
    won = max(trials, key=lambda job: (job.figures["all"], -job.figures["loss"]))
    return float(won.settings["rate"])


def _word(settings: Settings) -> tuple[Any, ...]:
    return settings["set"], settings["column"], settings["rate"]
