"""Accuracy of each way to aggregate while one of five sites attacks in every round.

The demo set ICD-10 is dealt out to the sites (Dirichlet 5.0, 21 chapters). They train LoRA on the
last linear layer of SmolLM2-135M and the head; what is below was computed once (``last_states``).
Checks, clipping, discounts and rules are those of the server enclave; ``plain`` averages what comes
and does nothing else. The attacker is the site of middling size. It sends

    x100               its update times 100: refused as beyond what a round can reach, but by plain;
                       so this is also what it costs to do without the site's rows
    flipped            its update the other way
    far flipped        the same, times as much as just passes that check
    labels             an honest update of training on reversed labels

Accuracies are over all sites' test rows after the last round.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from cut_data import CutSpec
from last_states import LastStates, last_states
from sealtune.audit import attacked_rounds
from sealtune.audit.attacked_rounds import (
    DEFAULT,
    PLAIN,
    Attack,
    Server,
    middling,
    numbers,
    settings_of,
)
from sealtune.audit.last_layer import States, Top
from sealtune.data.partition import partition
from sealtune.job.spec import ModelSpec
from sealtune.methods.federated.adapter import Tensors

SITES = ("north", "south", "east", "west", "coast")
NONE = "none"
AGGREGATORS = (PLAIN, DEFAULT, "median", "trimmed-mean", "multi-krum")
CHANGED = {"x100": (100.0, ""), "flipped": (-1.0, ""), "far flipped": (-1.0, "far")}
ATTACKS = (*CHANGED, "labels")
ALPHA, RATE, BATCH, STEPS = 5.0, 4e-3, 16, 5


@dataclass(frozen=True)
class Size:
    """Training and test rows, rounds, seeds."""

    train: int = 4000
    test: int = 2000
    rounds: int = 24
    seeds: tuple[int, ...] = (1, 2, 3)


FULL, QUICK = Size(), Size(train=1500, test=600, seeds=(1,))


@dataclass(frozen=True)
class Run:
    """One job: a work item.

    Attributes:
        aggregator: of ``AGGREGATORS``.
        attack: of ``ATTACKS``, or ``none``.
        size: of the data.
        seed: of dealing rows out, first values and batches.
        model, data: folders of the backbone and of the demo sets.
    """

    aggregator: str
    attack: str
    size: Size
    seed: int
    model: str
    data: str

    @property
    def spec(self) -> CutSpec:
        """Which rows."""
        size = self.size
        return CutSpec("icd10", size.train, size.test, 0, "bf16", self.model, self.data)


def measure(
    *,
    quick: bool,
    advance: Callable[[str], None],
    model: str = "demo/model",
    data: str = "demo/data",
    workers: int = 2,
) -> dict[str, Any]:
    """Every aggregator under every attack.

    Args:
        quick: few rows and rounds, one seed.
        advance: called with what was done after each run.

    Returns:
        ``worst_drop_default``, the mean over seeds, in points, of what the default loses under the
        worst attack; ``worst_drop``, the same of each aggregator; ``accuracy``, aggregator ->
        attack -> mean, in percent; ``refused``, aggregator -> attack -> share of rounds in which
        the attacker's update was refused.
    """
    runs = list(_runs(quick, model, data))
    last_states(runs[0].spec)
    found: dict[Run, dict[str, float]] = {}
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        waiting = {pool.submit(play, run): run for run in runs}
        for future in as_completed(waiting):
            run = waiting[future]
            found[run] = future.result()
            accuracy = found[run]["accuracy"]
            advance(f"{run.aggregator}, {run.attack}, seed {run.seed}: {accuracy:.1f} %")
    return _figures(found)


def _runs(quick: bool, model: str, data: str) -> Iterator[Run]:
    size = QUICK if quick else FULL
    for seed in size.seeds:
        for aggregator in AGGREGATORS:
            for attack in (NONE, *ATTACKS):
                yield Run(aggregator, attack, size, seed, model, data)


def _figures(found: Mapping[Run, Mapping[str, float]]) -> dict[str, Any]:
    def mean(key: str, aggregator: str, attack: str) -> float:
        values = [
            result[key]
            for run, result in found.items()
            if (run.aggregator, run.attack) == (aggregator, attack)
        ]
        return round(statistics.mean(values), 2)

    accuracy = {
        name: {attack: mean("accuracy", name, attack) for attack in (NONE, *ATTACKS)}
        for name in AGGREGATORS
    }
    drops = {
        name: round(max(own[NONE] - own[attack] for attack in ATTACKS), 2)
        for name, own in accuracy.items()
    }
    return {
        "worst_drop_default": drops[DEFAULT],
        "worst_drop": drops,
        "accuracy": accuracy,
        "refused": {n: {a: mean("refused", n, a) for a in ATTACKS} for n in AGGREGATORS},
        "flagged": {n: {a: mean("flagged", n, a) for a in (NONE, *ATTACKS)} for n in AGGREGATORS},
        "wrongly_flagged": {
            n: {a: mean("wrongly_flagged", n, a) for a in (NONE, *ATTACKS)} for n in AGGREGATORS
        },
    }


def table(result: Mapping[str, Any]) -> Table:
    """Accuracies, and what each attack costs."""
    shown = Table(title="accuracy in %, one of five sites attacks; in brackets what that costs")
    for heading in ("aggregator", "no attack", *ATTACKS, "worst"):
        shown.add_column(heading, justify="left" if heading == "aggregator" else "right")
    for name, own in result["accuracy"].items():
        cells = [f"{own[a]:.1f} ({own[NONE] - own[a]:+.1f})" for a in ATTACKS]
        shown.add_row(name, f"{own[NONE]:.1f}", *cells, f"{result['worst_drop'][name]:.1f}")
    return shown


# --- one job ------------------------------------------------------------------------------------


@cache
def _data(spec: CutSpec) -> LastStates:
    return last_states(spec)


@cache
def _top(model: str, labels: tuple[str, ...], seed: int) -> tuple[Top, Tensors]:
    """The model and its first values."""
    top = Top(ModelSpec(path=model, task="classification"), labels, seed)
    return top, numbers(top)


def play(run: Run) -> dict[str, float]:
    """All rounds of a job: what a worker process does."""
    data = _data(run.spec)
    top, first = _top(run.model, data.labels, run.seed)
    sites = _deal(data, run.seed)
    attacker = middling(sites)
    if run.attack == "labels":
        wrong = sites[attacker]
        sites[attacker] = wrong.relabelled(len(data.labels) - 1 - wrong.labels)
    settings = settings_of(
        run.aggregator,
        SITES,
        seed=run.seed,
        rounds=run.size.rounds,
        steps_per_round=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
    )
    rows = {site: len(own) for site, own in sites.items()}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(settings, first, rows, Path(folder), plain=run.aggregator == PLAIN)
        attack = Attack(attacker, *CHANGED.get(run.attack, ()))
        seen = attacked_rounds.play(server, top, sites, attack)
    return {"accuracy": 100 * top.right(data.test), **asdict(seen)}


def _deal(data: LastStates, seed: int) -> dict[str, States]:
    names = [data.labels[int(label)] for label in data.train.labels]
    dealt, _ = partition(names, names, len(SITES), scheme="dirichlet", alpha=ALPHA, seed=seed)
    return {site: data.train.part(rows.tolist()) for site, rows in zip(SITES, dealt, strict=True)}
