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
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

import sealtune
from sealtune.baseline.progress import Steps
from sealtune.baseline.workbench import Workbench, weighted_mean
from sealtune.errors import ConfigError, Problem
from sealtune.job.spec import Job
from sealtune.job.storage import write_atomic
from sealtune.model.texts import Texts
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
    work = {"local": _local, "pooled": _pooled, "plain-federated": _federated}.get(kind)
    if work is None:
        problem = Problem("--baseline", f"'{kind}' is not one of {', '.join(KINDS)}")
        raise ConfigError("command line", [problem])
    start = perf_counter()
    bench = Workbench(job)
    total = job.job.rounds * sum(_steps(job, data.train) for data in bench.sites.values())
    with Steps(f"baseline {kind}", total, quiet=quiet) as steps:
        steps.phase("test before training")
        before = bench.test(bench.initial)
        result = work(job, bench, steps)
    report = {
        "kind": kind,
        "accuracy_before": _pooled_accuracy(before),
        **result,
        "seconds": round(perf_counter() - start, 3),
        "seed": job.job.seed,
        "steps": total,
        "versions": _versions(),
    }
    text = json.dumps(report, indent=2) + "\n"
    write_atomic(run_dir / "baselines" / f"{kind}.json", text.encode())
    return report


def _local(job: Job, bench: Workbench, steps: Steps) -> dict[str, Any]:
    curves: list[list[float]] = []
    per_site: dict[str, Any] = {}
    for site, data in bench.sites.items():
        state, curve = bench.initial, []
        for number in range(1, job.job.rounds + 1):
            steps.phase(f"{site} alone, round {number}")
            state, result = bench.train(
                state,
                data.train,
                round=number,
                site=site,
                steps=_steps(job, data.train),
                on_step=steps.advance,
            )
            curve.append(result.train_loss)
        steps.phase(f"{site} alone, test")
        answers = bench.test(state)
        per_site[site] = {
            **_score(answers[site]),
            "accuracy_all_rows": _pooled_accuracy(answers),
        }
        curves.append(curve)
    mean = _mean([value["accuracy_all_rows"] for value in per_site.values()])
    return {
        "accuracy_after": mean,
        "mean_accuracy": mean,
        "per_site": per_site,
        "loss_curve": _weighted_curve(curves, bench),
    }


def _pooled(job: Job, bench: Workbench, steps: Steps) -> dict[str, Any]:
    everything = bench.everything()
    state, curve = bench.initial, []
    for number in range(1, job.job.rounds + 1):
        steps.phase(f"all data, round {number}")
        state, result = bench.train(
            state,
            everything,
            round=number,
            site="all",
            steps=sum(_steps(job, data.train) for data in bench.sites.values()),
            on_step=steps.advance,
        )
        curve.append(result.train_loss)
    return _finish(bench, state, curve, steps)


def _federated(job: Job, bench: Workbench, steps: Steps) -> dict[str, Any]:
    state = bench.initial
    curves: list[list[float]] = [[] for _ in bench.sites]
    weights = [len(data.train) for data in bench.sites.values()]
    for number in range(1, job.job.rounds + 1):
        updates = []
        for place, (site, data) in enumerate(bench.sites.items()):
            steps.phase(f"{site}, round {number}")
            update, result = bench.train(
                state,
                data.train,
                round=number,
                site=site,
                steps=_steps(job, data.train),
                on_step=steps.advance,
            )
            updates.append(update)
            curves[place].append(result.train_loss)
        state = weighted_mean(updates, weights)
    return _finish(bench, state, _weighted_curve(curves, bench), steps)


def _steps(job: Job, texts: Texts) -> int:
    """Steps of a round on ``texts``."""
    return job.train.steps(len(texts))


def _finish(bench: Workbench, state: Any, curve: list[float], steps: Steps) -> dict[str, Any]:
    steps.phase("test")
    answers = bench.test(state)
    per_site = {site: _score(result) for site, result in answers.items()}
    return {
        "accuracy_after": _pooled_accuracy(answers),
        "mean_accuracy": _mean([value["accuracy"] for value in per_site.values()]),
        "per_site": per_site,
        "loss_curve": curve,
    }


def _weighted_curve(curves: Sequence[Sequence[float]], bench: Workbench) -> list[float]:
    """Mean training loss by round over sites, weighted by examples as in the run's own curve."""
    weights = [len(data.train) for data in bench.sites.values()]
    return [
        sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
        for losses in zip(*curves, strict=True)
    ]


def _score(result: Evaluation) -> dict[str, Any]:
    accuracy = result.correct / result.total if result.total else None
    return {"accuracy": accuracy, "total": result.total, "loss": result.loss}


def _pooled_accuracy(answers: Mapping[str, Evaluation]) -> float | None:
    total = sum(result.total for result in answers.values())
    return sum(result.correct for result in answers.values()) / total if total else None


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return {"sealtune": sealtune.__version__, "python": platform.python_version(), **packages}
