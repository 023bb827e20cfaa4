"""P-tuning v2 and LoRA: federated against each site alone and against all rows in one place.

    python benchmarks/tuning.py                 # about half an hour of one core; needs demo/model
    python benchmarks/tuning.py --quick --json  # one set, one seed: about three minutes
    python benchmarks/tuning.py --plot docs/tuning.svg

SmolLM2-135M cut to its first blocks, texts of 16 tokens, a few hundred rows of three medical sets
dealt out to four sites (Dirichlet, 0.5). Every way takes the same number of steps of the same size:

    local       each site trains on its own rows, and never meets the others
    federated   FedAvg over the rounds, as `sealtune run --baseline plain-federated`
    pooled      one trainer with everybody's rows and as many steps as all sites together

*All rows* is the share of right answers over the test rows of all sites (local: the mean of the
sites' adapters); *own rows* is the mean over sites of the share on the site's own test rows.

Models are tuned by the code of runs (``apply_tuning``, ``local_round``), not masked. That masks
change nothing is measured beside it: 50 steps of each tuner, masked and plain
(``tuning_masked.py``). Learning rates: for each tuner and set the best of its grid on held-out
training rows of one more seed. Finished runs are kept in the cache, so an interrupted benchmark
goes on; ``--fresh`` forgets them.

Keys of the JSON line: ``accuracy`` = set -> tuner -> way -> ``all`` and ``own``, each with the mean
and every seed; ``rates``; ``federated_gain_own`` = set -> tuner -> federated less local, own rows;
``masked_minus_plain_ptuning``, ``masked_minus_plain_lora``: see there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save_file

from cut_data import benchmark_cache
from output import progress
from sealtune.baseline.workbench import State, Workbench, weighted_mean
from sealtune.demo.data_sets import DATA_SETS
from sealtune.job.sections import JobSpec, LoraSpec, PtuningSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.model.texts import Texts, join
from tuning_masked import BLOCKS as MASKED_BLOCKS
from tuning_masked import measure, results
from tuning_plot import draw

SETS = ("icd10", "hpo", "medmcqa-subject")
SITES = ("north", "south", "east", "west")
TUNERS: Mapping[str, TuningSpec] = {
    "lora": TuningSpec(lora=LoraSpec(rank=8)),
    "ptuning": TuningSpec(ptuning=PtuningSpec(virtual_tokens=16)),
}
GRIDS = {"lora": (1e-3, 3e-3, 1e-2), "ptuning": (1e-3, 3e-3, 1e-2)}
WAYS = ("local", "federated", "pooled")
RATE_SEED = 100
TOKENS = 16


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        train, test, held: rows of a set; ``held`` are those on which rates are chosen.
        rounds, steps: of each site.
        batch: rows of a step.
        blocks: of the model, from its first.
    """

    train: int = 480
    test: int = 200
    held: int = 120
    rounds: int = 4
    steps: int = 8
    batch: int = 8
    blocks: int = 6


@dataclass(frozen=True)
class Run:
    """One set, tuner and seed; ``rate`` is None until it has been chosen."""

    name: str
    tuner: str
    seed: int
    size: Size
    rate: float | None = None

    @property
    def key(self) -> str:
        """Names it in the store."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def trials(self) -> list[Run]:
        """The runs that choose its rate."""
        return [replace(self, seed=RATE_SEED, rate=rate) for rate in GRIDS[self.tuner]]


class Store:
    """Finished runs, as lines of JSON in the cache.

    Args:
        fresh: forget what is there.
    """

    def __init__(self, fresh: bool) -> None:
        self._path = benchmark_cache() / "tuning-runs.jsonl"
        if fresh:
            self._path.unlink(missing_ok=True)
        self.done: dict[str, Any] = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # the last line of a run that was killed
                    entry = json.loads(line)
                    self.done[entry["key"]] = entry["result"]

    def add(self, key: str, result: Any) -> None:
        """Keep what came of a run."""
        self.done[key] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "result": result}) + "\n")

    def with_rate(self, run: Run) -> Run | None:
        """``run`` with the best rate of its trials; None as long as one is missing."""
        if not all(trial.key in self.done for trial in run.trials):
            return None
        return replace(run, rate=max(run.trials, key=self._score).rate)

    def _score(self, trial: Run) -> tuple[float, float]:
        found = self.done[trial.key]
        return found["accuracy"], -found["loss"]

    def result(self, run: Run) -> Any:
        """What came of a run; None if it is not finished."""
        known = self.with_rate(run)
        return known and self.done.get(known.key)


# --- model and rows -----------------------------------------------------------------------------


def cut_model(source: Path, blocks: int) -> Path:
    """The first ``blocks`` of a model, as a folder in the cache."""
    folder = benchmark_cache() / f"{source.resolve().name}-first-{blocks}"
    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": blocks}))
    with safe_open(source / "model.safetensors", "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys() if _block(name) < blocks}  # noqa: SIM118
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _block(tensor: str) -> int:
    """The block that a tensor is of; -1: of none."""
    _, found, rest = tensor.partition(".layers.")
    return int(rest.split(".")[0]) if found else -1


def rows_of(name: str, size: Size, *, held: bool) -> tuple[Path, Path]:
    """Files with some of a set's rows, to train and test on; ``held``: none of its test rows."""
    source = benchmark_cache().parent / "data" / name
    DATA_SETS[name].make(source, lambda said: None)
    lines = {
        part: (source / f"{part}.jsonl").read_text().splitlines() for part in ("train", "test")
    }
    random.Random(1).shuffle(lines["train"])
    random.Random(2).shuffle(lines["test"])
    train, rest = lines["train"][: size.train], lines["train"][size.train :]
    # a class that nobody trains on can be tested on by nobody
    labels = {json.loads(line)["label"] for line in train}
    test = rest[: size.held] if held else lines["test"][: size.test]
    folder = benchmark_cache() / f"tuning-{name}-{size.train}-{len(test)}{'-held' * held}"
    folder.mkdir(exist_ok=True)
    files = folder / "train.jsonl", folder / "test.jsonl"
    known = [line for line in test if json.loads(line)["label"] in labels]
    for file, content in zip(files, (train, known), strict=True):
        file.write_text("\n".join(content) + "\n")
    return files


@lru_cache(maxsize=1)
def workbench(run: Run, model: Path, *, held: bool = False) -> Workbench:
    """Everything of one set, seed and tuner; its learning rate is that of the run."""
    train, test = rows_of(run.name, run.size, held=held)
    assert run.rate is not None
    job = Job(
        job=JobSpec(name="bench", seed=run.seed, rounds=run.size.rounds),
        model=ModelSpec(path=str(cut_model(model, run.size.blocks))),
        data=DataSpec(train=train, test=test, max_tokens=TOKENS),
        sites=SitesSpec(names=SITES, partition="dirichlet", alpha=0.5),
        tuning=TUNERS[run.tuner],
        train=TrainSpec(
            steps_per_round=run.size.steps, batch_size=run.size.batch, learning_rate=run.rate
        ),
    )
    return Workbench(job)


# --- the three ways -----------------------------------------------------------------------------


def train(bench: Workbench, state: State, data: Texts, site: str, number: int, steps: int) -> State:
    """One round of a site."""
    found, _ = bench.train(
        state, data, round=number, site=site, steps=steps, on_step=lambda info: None
    )
    return found


def pooled(bench: Workbench, size: Size, rounds: int) -> State:
    """One trainer of all rows, with as many steps as the sites have together."""
    everything, state = join([site.train for site in bench.sites.values()]), bench.initial
    for number in range(1, rounds + 1):
        state = train(bench, state, everything, "all", number, size.steps * len(SITES))
    return state


def local(bench: Workbench, size: Size, site: str) -> State:
    """A site alone."""
    state: State = bench.initial
    for number in range(1, size.rounds + 1):
        state = train(bench, state, bench.sites[site].train, site, number, size.steps)
    return state


def federated(bench: Workbench, size: Size) -> State:
    """The mean of the sites' adapters, round after round."""
    state: State = bench.initial
    rows = [len(data.train) for data in bench.sites.values()]
    for number in range(1, size.rounds + 1):
        states = [
            train(bench, state, data.train, site, number, size.steps)
            for site, data in bench.sites.items()
        ]
        state = weighted_mean(states, rows)
    return state


def shares(bench: Workbench, states: Mapping[str, State]) -> dict[str, float]:
    """Right answers on all rows and on own rows; ``states``: each site's adapter."""
    tested: dict[int, Any] = {id(state): None for state in states.values()}
    for state in states.values():
        if tested[id(state)] is None:
            tested[id(state)] = bench.test(state)
    everywhere, own = [], []
    for site, state in states.items():
        found = tested[id(state)]
        total = sum(one.total for one in found.values())
        everywhere.append(sum(one.correct for one in found.values()) / total)
        if found[site].total:
            own.append(found[site].correct / found[site].total)
    return {"all": statistics.fmean(everywhere), "own": statistics.fmean(own)}


def work(run: Run, model: Path) -> Any:
    """A run's shares by way; of a trial what its rate reaches on held-out rows."""
    size = run.size
    if run.seed == RATE_SEED:
        bench = workbench(run, model, held=True)
        state = pooled(bench, size, max(1, size.rounds // 2))
        found = bench.test(state).values()
        total = sum(one.total for one in found)
        return {
            "accuracy": sum(one.correct for one in found) / total,
            "loss": sum(one.loss * one.total for one in found) / total,
        }
    bench = workbench(run, model)
    joint, everybody = federated(bench, size), pooled(bench, size, size.rounds)
    return {
        "local": shares(bench, {site: local(bench, size, site) for site in SITES}),
        "federated": shares(bench, dict.fromkeys(SITES, joint)),
        "pooled": shares(bench, dict.fromkeys(SITES, everybody)),
    }


def masked(store: Store, model: Path, size: Size, steps: int) -> Any:
    """How far masked losses are from plain ones, with both tuners."""
    key = f"masked {steps}"
    if key not in store.done:
        text, _ = rows_of("icd10", size, held=False)
        store.add(key, results(measure(cut_model(model, MASKED_BLOCKS), text, steps)))
    return store.done[key]


# --- all of them --------------------------------------------------------------------------------


def finish(runs: Sequence[Run], store: Store, model: Path) -> None:
    """Do what is not done yet: the trials of a run before it."""
    steps = list(dict.fromkeys(one for run in runs for one in (*run.trials, run)))
    with progress(len(steps)) as report:
        for run in steps:
            known = run if run.rate is not None else store.with_rate(run)
            assert known is not None
            if known.key not in store.done:
                store.add(known.key, work(known, model))
            report(f"{known.name} {known.tuner} {known.rate:g} seed {known.seed}")


def figures(runs: Sequence[Run], store: Store) -> dict[str, Any]:
    """What came out, by set and tuner."""
    accuracy: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    for name, tuner in dict.fromkeys((run.name, run.tuner) for run in runs):
        these = [run for run in runs if (run.name, run.tuner) == (name, tuner)]
        found = [result for run in these if (result := store.result(run))]
        known = store.with_rate(these[0])
        rates.setdefault(name, {})[tuner] = known and known.rate
        accuracy.setdefault(name, {})[tuner] = {
            way: {
                rows: {
                    "mean": statistics.fmean(one[way][rows] for one in found),
                    "seeds": [one[way][rows] for one in found],
                }
                for rows in ("all", "own")
            }
            for way in WAYS
        }
    gain = {
        name: {
            tuner: ways["federated"]["own"]["mean"] - ways["local"]["own"]["mean"]
            for tuner, ways in tuners.items()
        }
        for name, tuners in accuracy.items()
    }
    return {"accuracy": accuracy, "rates": rates, "federated_gain_own": gain}


def table(found: Mapping[str, Any]) -> Table:
    """The shares in percent: the mean over seeds, and the least and most."""
    shown = Table(box=MARKDOWN)
    heads = [f"{way}, {rows} rows" for rows in ("all", "own") for way in WAYS]
    for head in ("set", "tuner (rate)", *heads):
        shown.add_column(head, justify="left" if head in ("set", "tuner (rate)") else "right")
    for name, tuners in found["accuracy"].items():
        for tuner, ways in tuners.items():
            cells = [_cell(ways[way][rows]) for rows in ("all", "own") for way in WAYS]
            shown.add_row(name, f"{tuner} ({found['rates'][name][tuner]:g})", *cells)
    return shown


def _cell(share: Mapping[str, Any]) -> str:
    mean, seeds = 100 * share["mean"], [100 * one for one in share["seeds"]]
    spread = f" ({min(seeds):.1f} to {max(seeds):.1f})" if len(seeds) > 1 else ""
    return f"{mean:.1f}{spread}"


def main() -> None:
    """Parse options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("demo/model"), help="its folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the shares")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    parser.add_argument("--quick", action="store_true", help="one set, one seed")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    size, sets, seeds = Size(), SETS, options.seeds
    if options.quick:
        size, sets, seeds = Size(test=120, held=80, rounds=2), ("hpo",), 1
    started = time.process_time()
    store = Store(options.fresh)
    runs = [
        Run(name, tuner, seed, size)
        for seed in range(1, seeds + 1)  # one cut short has figures of every set
        for name in sets
        for tuner in TUNERS
    ]
    finish(runs, store, options.model)
    found = {
        **figures(runs, store),
        **masked(store, options.model, size, 10 if options.quick else 50),
        "size": asdict(size),
        "seeds": seeds,
        "processor_seconds": round(time.process_time() - started, 1),
        "torch": torch.__version__,
    }
    if options.plot:
        options.plot.write_text(draw(found["accuracy"]), encoding="utf-8")
    if options.json:
        print(json.dumps(found))
    else:
        Console(width=200).print(table(found))
        for key in ("masked_minus_plain_ptuning", "masked_minus_plain_lora"):
            print(f"{key:28} {found[key]:.1e}")


if __name__ == "__main__":
    main()
