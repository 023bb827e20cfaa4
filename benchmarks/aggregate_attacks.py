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
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.table import Table

from cut_data import CutSpec
from last_states import TARGETS, LastStates, States, Top, last_states
from sealtune.data.partition import partition
from sealtune.errors import ModelError, UpdateBoundError
from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import Tensors, write_adapter
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.norm_bound import FIRST_RATIO
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.rules.fedavg import FedAvg
from sealtune.methods.federated.training_round import TrainingRound
from sealtune.methods.federated.update_bound import UpdateBound
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import local_round

SITES = ("north", "south", "east", "west", "coast")
PLAIN, DEFAULT, NONE = "plain", "default", "none"
AGGREGATORS: dict[str, dict[str, Any]] = {
    PLAIN: {"norm_bound": "none", "outliers": "report"},
    DEFAULT: {},
    "median": {"rule": "median"},
    "trimmed-mean": {"rule": "trimmed-mean"},
    "multi-krum": {"rule": "multi-krum"},
}
FACTORS = {"x100": 100.0, "flipped": -1.0, "far flipped": -1.0}
ATTACKS = (*FACTORS, "labels")
ALPHA, RATE, BATCH, STEPS = 5.0, 4e-3, 16, 5
_JUST = 0.999  # of what passes


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
    from sealtune.job.spec import ModelSpec

    top = Top(ModelSpec(path=model, task="classification"), labels, seed)
    return top, _numbers(top)


def _numbers(top: Top) -> dict[str, Any]:
    return {name: t.numpy().copy() for name, t in trainable_state(top.model).items()}


def play(run: Run) -> dict[str, float]:
    """All rounds of a job: what a worker process does."""
    data = _data(run.spec)
    top, first = _top(run.model, data.labels, run.seed)
    sites = _deal(data, run.seed)
    attacker = sorted(sites, key=lambda site: len(sites[site]))[len(sites) // 2]
    if run.attack == "labels":
        wrong = sites[attacker]
        sites[attacker] = wrong.relabelled(len(data.labels) - 1 - wrong.labels)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(run, first, {site: len(own) for site, own in sites.items()}, Path(folder))
        seen = {"refused": 0.0, "flagged": 0.0, "wrongly_flagged": 0.0}
        for number in range(1, run.size.rounds + 1):
            answers = _train(run, top, sites, server, number)
            if answers is None:
                break  # nothing is left to be trained
            if run.attack in FACTORS:
                answers[attacker] = server.attacked(attacker, answers[attacker], run.attack)
            refused, flagged = server.take(answers)
            seen["refused"] += attacker in refused
            seen["flagged"] += attacker in flagged
            seen["wrongly_flagged"] += len(flagged - {attacker})
        _load(top, server.adapter)
    rounds = run.size.rounds
    return {"accuracy": _accuracy(top, data.test), **{k: v / rounds for k, v in seen.items()}}


def _deal(data: LastStates, seed: int) -> dict[str, States]:
    names = [data.labels[int(label)] for label in data.train.labels]
    dealt, _ = partition(names, names, len(SITES), scheme="dirichlet", alpha=ALPHA, seed=seed)
    return {site: data.train.part(rows.tolist()) for site, rows in zip(SITES, dealt, strict=True)}


def _train(
    run: Run, top: Top, sites: Mapping[str, States], server: Server, number: int
) -> dict[str, Tensors] | None:
    """Each site's adapter after a round; None: the global one is beyond repair."""
    answers: dict[str, Tensors] = {}
    for site, own in sites.items():
        _load(top, server.adapter)
        try:
            task: Any = top
            train = server.settings.train
            local_round(top.model, task, own, train, seed=run.seed, round=number, site=site)  # type: ignore[arg-type]
        except ModelError:
            return None
        answers[site] = _numbers(top)
    return answers


def _load(top: Top, adapter: Tensors) -> None:
    finite = {n: torch.from_numpy(np.nan_to_num(t)) for n, t in adapter.items()}
    load_trainable_state(top.model, finite)


def _accuracy(top: Top, rows: States) -> float:
    with torch.no_grad():
        found = top.logits(rows.batch(range(len(rows)))).argmax(dim=1)
    return 100 * float((found == rows.labels).float().mean())


class Server:
    """The server enclave's part of a job, round by round.

    Args:
        run: the job.
        first: the first global adapter.
        rows: site -> signed training rows.
        folder: for the enclave's files.

    Attributes:
        adapter: the global adapter.
        settings: the job's.
    """

    def __init__(self, run: Run, first: Tensors, rows: Mapping[str, int], folder: Path) -> None:
        self.adapter, self._plain = first, run.aggregator == PLAIN
        self._rows, self._folder = rows, folder
        self._shapes = {name: tensor.shape for name, tensor in first.items()}
        self.settings = Settings.model_validate(
            {
                "job": {"name": "attacks", "seed": run.seed, "rounds": run.size.rounds},
                "model": {"task": "classification"},
                "data": {},
                "sites": {"names": SITES, "partition": "dirichlet"},
                "tuning": {"lora": {"targets": TARGETS}},
                "train": {"steps_per_round": STEPS, "batch_size": BATCH, "learning_rate": RATE},
                "aggregation": AGGREGATORS[run.aggregator],
                "network": {"min_sites": 4},
            }
        )
        self._ratio, self._standings = FIRST_RATIO, dict[str, Any]()

    def attacked(self, site: str, answer: Tensors, attack: str) -> Tensors:
        """What the attacker sends in the place of an honest answer."""
        moved = {name: answer[name] - before for name, before in self.adapter.items()}
        factor = FACTORS[attack]
        if attack == "far flipped":
            largest = {name: float(np.abs(t).max()) for name, t in self.adapter.items()}
            train, tuning = self.settings.train, self.settings.tuning
            limits = UpdateBound(train, tuning, [1.0] * STEPS).limits(largest)
            factor *= _JUST * min(limits[n] / float(np.abs(t).max()) for n, t in moved.items())
        with np.errstate(over="ignore", invalid="ignore"):
            return {n: before + np.float32(factor) * moved[n] for n, before in self.adapter.items()}

    def take(self, answers: Mapping[str, Tensors]) -> tuple[set[str], set[str]]:
        """End a round; returns whose update was refused, and who was flagged as an outlier."""
        if self._plain:
            self.adapter = self._average(answers)
            return set(), set()
        outgoing = Outgoing(write_adapter(self.adapter), self._shapes, self.settings.tuning)
        admitted: Any = SimpleNamespace(
            settings=self.settings,
            plan=SimpleNamespace(shared=self._shapes),
            manifest=SimpleNamespace(
                data={site: SimpleNamespace(train_rows=rows) for site, rows in self._rows.items()},
                dp=None,
                rounds=self.settings.job.rounds,
            ),
            state_folder=self._folder,
            sealing_key=bytes(32),
            job_id="00" * 48,
        )
        round_ = TrainingRound(admitted, outgoing, self._ratio, self._standings, number=1)
        refused = set()
        for site, answer in answers.items():
            try:
                update = round_.check(site, write_adapter(answer))
            except UpdateBoundError:
                refused.add(site)
            else:
                round_.take(site, update)
        self.adapter = round_.result(len(refused))
        self._standings, compared = round_.compare()
        self._ratio = round_.norms.next_ratio
        return refused, {site for site, own in compared.items() if own["outlier"]}

    def _average(self, answers: Mapping[str, Tensors]) -> Tensors:
        """The rule alone."""
        with np.errstate(over="ignore", invalid="ignore"):
            moved = {s: {n: a[n] - b for n, b in self.adapter.items()} for s, a in answers.items()}
            reach = max(float(np.abs(t).max()) for own in moved.values() for t in own.values())
            context = RoundContext(
                self._shapes, self.adapter, self.settings, self._rows, reach, self._folder
            )
            rule = FedAvg(context)
            for site, update in moved.items():
                rule.add(site, update, self._rows[site])
            return rule.result()
