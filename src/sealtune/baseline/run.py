"""Run one baseline of a job and write ``baselines/<kind>.json`` into its run folder.

    local             each site alone: rounds * steps_per_round steps on its own data
    pooled            all data in one place; as many steps as all sites together make
    plain-federated   FedAvg of float32 adapters, step for step what ``sealtune run`` does

Every kind starts from the same adapter, uses the same batch size, learning rate and test rows, and
processes the same number of examples in total. Accuracy is always over all sites' test rows
together; for ``local`` it is the mean over the sites' own adapters, each tested on all rows.

Trust domain: none; for comparison only.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from operator import mul
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import sealtune
from sealtune.baseline.progress import Bar
from sealtune.baseline.workbench import State, Workbench, weighted_mean
from sealtune.errors import ConfigError, Problem
from sealtune.job.spec import Job
from sealtune.job.storage import write_atomic
from sealtune.model.texts import join
from sealtune.model.training import Evaluation

Kind = Literal["local", "pooled", "plain-federated"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def run(job: Job, kind: Kind, run_dir: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Run baseline ``kind`` of ``job``, write its file, and return what is in it.

    Args:
        quiet: show no progress.

    Returns:
        ``kind, accuracy_before, accuracy_after, mean_accuracy, per_site, loss_curve, seconds, seed,
        steps, versions``. ``per_site.<site>`` has ``accuracy`` (of the site's test rows, under the
        site's own adapter for ``local``), ``total``, and for ``local`` also ``accuracy_all_rows``.
        ``mean_accuracy`` is the mean of ``accuracy_all_rows`` for ``local``, else of ``accuracy``.

    Raises:
        ConfigError: there is no such kind.
        StorageError: the file cannot be written.
    """
    if kind not in KINDS:
        problem = Problem("--baseline", f"'{kind}' is not one of {', '.join(KINDS)}")
        raise ConfigError("command line", [problem])
    start = perf_counter()
    bench = Workbench(job)
    steps = job.job.rounds * sum(job.train.steps(len(d.train)) for d in bench.sites.values())
    with Bar(f"baseline {kind}", steps, quiet=quiet) as bar:
        bar.phase("test before training")
        before = bench.test(bench.initial)
        states, curve = _train(job, bench, kind, bar)
        bar.phase("test")
        scores = _test(bench, kind, states)
    report = {
        "kind": kind,
        "accuracy_before": _pooled_accuracy(before.values()),
        **scores,
        "loss_curve": curve,
        "seconds": round(perf_counter() - start, 3),
        "seed": job.job.seed,
        "steps": steps,
        "versions": _versions(),
    }
    text = json.dumps(report, indent=2) + "\n"
    write_atomic(run_dir / "baselines" / f"{kind}.json", text.encode())
    return report


def _train(
    job: Job, bench: Workbench, kind: Kind, bar: Bar
) -> tuple[dict[str, State], list[float]]:
    """Each participant's adapter after the last round, and the mean training loss by round.

    The loss is weighted by examples, as in the run's own curve.
    """
    texts = {site: data.train for site, data in bench.sites.items()}
    steps = {site: job.train.steps(len(data)) for site, data in texts.items()}
    if kind == "pooled":
        texts, steps = {"all": join(list(texts.values()))}, {"all": sum(steps.values())}
    weights = [len(data) for data in texts.values()]
    states: dict[str, State] = dict.fromkeys(texts, bench.initial)
    curve = []
    for number in range(1, job.job.rounds + 1):
        losses = []
        for site, data in texts.items():
            bar.phase(f"{site}, round {number}")
            states[site], result = bench.train(
                states[site], data, round=number, site=site, steps=steps[site], on_step=bar.step
            )
            losses.append(result.train_loss)
        curve.append(sum(map(mul, losses, weights)) / sum(weights))
        if kind == "plain-federated":
            states = dict.fromkeys(states, weighted_mean(list(states.values()), weights))
    return states, curve


def _test(bench: Workbench, kind: Kind, states: Mapping[str, State]) -> dict[str, Any]:
    """Accuracies; of ``local`` each site's rows under its own adapter, and all rows under it."""
    per_site: dict[str, Any] = {}
    if kind == "local":
        for site, state in states.items():
            answers = bench.test(state)
            every = _pooled_accuracy(answers.values())
            per_site[site] = {**_score(answers[site]), "accuracy_all_rows": every}
        mean = after = _mean(value["accuracy_all_rows"] for value in per_site.values())
    else:
        answers = bench.test(next(iter(states.values())))
        per_site = {site: _score(result) for site, result in answers.items()}
        after = _pooled_accuracy(answers.values())
        mean = _mean(value["accuracy"] for value in per_site.values())
    return {"accuracy_after": after, "mean_accuracy": mean, "per_site": per_site}


def _score(result: Evaluation) -> dict[str, Any]:
    accuracy = result.correct / result.total if result.total else None
    return {"accuracy": accuracy, "total": result.total, "loss": result.loss}


def _pooled_accuracy(answers: Collection[Evaluation]) -> float | None:
    total = sum(result.total for result in answers)
    return sum(result.correct for result in answers) / total if total else None


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return {"sealtune": sealtune.__version__, "python": platform.python_version(), **packages}
