"""Run one baseline of a job and write ``baselines/<kind>.json`` into its run folder.

    local             each site alone: as many steps on its own data as it makes in the job
    pooled            all data in one place; as many steps as all sites together make
    plain-federated   FedAvg of float32 adapters, step for step what ``sealtune run`` does

Every kind starts from the same adapter, uses the same batch size, learning rate and test rows, and
processes the same number of examples in total. There are two views of accuracy: on all sites' test
rows together, and on each site's own. Of ``local``, whose models differ, the first is the mean over
the sites' models, each on all rows; the second has each row answered by its own site's model.

With ``local``, the adapters of a run that are a site's own (``aggregation.personal``,
``personal_steps``) are tested in the same way, if they are there.

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
from sealtune.job.compute_rules import Device
from sealtune.job.method import method_of
from sealtune.job.spec import Job
from sealtune.job.storage import write_atomic
from sealtune.methods.federated.participation import draw
from sealtune.model.texts import Texts, join
from sealtune.model.training import Evaluation
from sealtune.tuning.adapter import FINGERPRINT
from sealtune.tuning.folder import read_fingerprint

Kind = Literal["local", "pooled", "plain-federated"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Answers = Mapping[str, Evaluation]  # each site's test rows


def run(
    job: Job, kind: Kind, run_dir: Path, *, quiet: bool = False, device: Device = "cpu"
) -> dict[str, Any]:
    """Run baseline ``kind`` of ``job``, write its file, and return what is in it.

    Args:
        quiet: show no progress.
        device: where the model is trained and tested.

    Returns:
        ``kind, accuracy_before, accuracy_after, accuracy_own_rows, per_site, loss_curve, seconds,
        seed, steps, versions``. ``per_site.<site>`` has ``accuracy``, ``loss`` and ``total`` of the
        site's own test rows, and ``accuracy_all_rows`` of the model that answered them.
        ``personal``, where the sites have adapters of their own: the same scores of these, and the
        ``job_id`` that they are of.

    Raises:
        ConfigError: there is no such kind, or no such device.
        ModelError: a site's own adapter in the run folder cannot be loaded.
        StorageError: the file cannot be written.
    """
    if kind not in KINDS:
        problem = Problem("--baseline", f"'{kind}' is not one of {', '.join(KINDS)}")
        raise ConfigError("command line", [problem])
    start = perf_counter()
    bench = Workbench(job, device)
    own, job_id = own_adapters(run_dir, bench.sites) if kind == "local" else ({}, "")
    steps = _steps(job, bench, kind)
    with Bar(f"baseline {kind}", steps, quiet=quiet) as bar:
        bar.phase("test before training")
        before = bench.test(bench.initial)
        states, curve = _train(job, bench, kind, bar)
        bar.phase("test")
        answers = _test(bench, kind, states)
        tested = {site: bench.test_adapter(folder) for site, folder in own.items()}
    report = {
        "kind": kind,
        "accuracy_before": _accuracy(before.values()),
        **_scores(answers),
        **({"personal": {"job_id": job_id, **_scores(tested)}} if tested else {}),
        "loss_curve": curve,
        "seconds": round(perf_counter() - start, 3),
        "seed": job.job.seed,
        "steps": steps,
        "versions": _versions(),
    }
    text = json.dumps(report, indent=2) + "\n"
    write_atomic(run_dir / "baselines" / f"{kind}.json", text.encode())
    return report


def _steps(job: Job, bench: Workbench, kind: Kind) -> int:
    """Of all participants together."""
    steps = {site: job.train.steps(len(data.train)) for site, data in bench.sites.items()}
    rounds = range(1, job.job.rounds + 1)
    if kind == "plain-federated":
        return sum(steps[site] for number in rounds for site in _asked(job, steps, number))
    return len(rounds) * sum(steps.values()) + len(steps) * job.aggregation.personal_steps


def own_adapters(run_dir: Path, sites: Iterable[str]) -> tuple[dict[str, Path], str]:
    """The folders of a run's adapters that are each site's own, and the job that they are of.

    Nothing unless every site has one: a joint adapter is no site's own.
    """
    found, jobs = {}, set()
    for site in sites:
        for name in ("adapter", "adapter-personal"):
            path = run_dir / "sites" / site / name
            if (path / FINGERPRINT).is_file() and (print_ := read_fingerprint(path)).site == site:
                found[site] = path
                jobs.add(print_.job_id)
    whole = len(jobs) == 1 and found.keys() == set(sites)
    return (found, jobs.pop()) if whole else ({}, "")


def _train(
    job: Job, bench: Workbench, kind: Kind, bar: Bar
) -> tuple[dict[str, State], list[float]]:
    """Each participant's adapter in the end, and the mean training loss by round.

    The loss is weighted by examples, as in the run's own curve.
    """
    texts: dict[str, Texts] = {site: data.train for site, data in bench.sites.items()}
    steps = {site: job.train.steps(len(data)) for site, data in texts.items()}
    alone = job.aggregation.personal_steps
    if kind == "pooled":
        texts, steps = {"all": join(list(texts.values()))}, {"all": sum(steps.values())}
        alone *= len(bench.sites)
    states: dict[str, State] = dict.fromkeys(texts, bench.initial)
    federated, curve = kind == "plain-federated", []

    def train(site: str, number: int, count: int, *, decays: bool = False) -> float:
        states[site], result = bench.train(
            states[site],
            texts[site],
            round=number,
            site=site,
            steps=count,
            first=(number - 1) * steps[site],
            proximal=job.aggregation.proximal if federated else 0.0,
            decays=decays,
            on_step=bar.step,
        )
        return result.train_loss

    for number in range(1, job.job.rounds + 1):
        asked = _asked(job, texts, number) if federated else tuple(texts)
        weights = [len(texts[site]) for site in asked]
        losses = []
        for site in asked:
            bar.phase(f"{site}, round {number}")
            losses.append(train(site, number, steps[site]))
        curve.append(sum(map(mul, losses, weights)) / sum(weights))
        if federated:
            mean = weighted_mean([states[site] for site in asked], weights)
            for site, state in states.items():
                states[site] = {**mean, **{name: state[name] for name in bench.personal}}
    for site in texts if alone and not federated else ():
        bar.phase(f"{site}, its last steps")
        train(site, job.job.rounds + 1, alone, decays=True)
    return states, curve


def _asked(job: Job, sites: Collection[str], number: int) -> tuple[str, ...]:
    """Who trains in a round of a run whose manifest throw-away keys sign."""
    least = method_of(job.job.method).least_cohort(len(sites))
    cohort = max(job.quorum, least)
    return draw({site: site for site in sites}, job.asked, cohort, job.job.seed, number)


def _test(bench: Workbench, kind: Kind, states: Mapping[str, State]) -> dict[str, Answers]:
    """Of each site: what its model answers on all sites' rows."""
    if kind == "local" or bench.personal:
        return {site: bench.test(state) for site, state in states.items()}
    return dict.fromkeys(bench.sites, bench.test(next(iter(states.values()))))


def _scores(answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Both views of the sites' models."""
    per_site = {
        site: {**_score(of_all[site]), "accuracy_all_rows": _accuracy(of_all.values())}
        for site, of_all in answers.items()
    }
    return {
        "accuracy_after": _mean(own["accuracy_all_rows"] for own in per_site.values()),
        "accuracy_own_rows": _accuracy(of_all[site] for site, of_all in answers.items()),
        "per_site": per_site,
    }


def _score(result: Evaluation) -> dict[str, Any]:
    return {"accuracy": _accuracy([result]), "total": result.total, "loss": result.loss}


def _accuracy(answers: Iterable[Evaluation]) -> float | None:
    """Right answers over all rows."""
    parts = tuple(answers)
    total = sum(result.total for result in parts)
    return sum(result.correct for result in parts) / total if total else None


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    if len(set(numbers)) == 1:
        return numbers[0]  # one model's, without rounding
    return sum(numbers) / len(numbers) if numbers else None


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    return {"sealtune": sealtune.__version__, "python": platform.python_version(), **packages}
