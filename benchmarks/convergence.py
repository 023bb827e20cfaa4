"""Accuracy against time and against bytes: Method 1, Method 2, plain federated and local.

    python benchmarks/convergence.py                  # about 15 minutes of one core; needs demo/
    python benchmarks/convergence.py --quick --json   # one set, two lengths: within 3 minutes

Each mark is a whole job of so many rounds, whose rates warm up and fall over these: what a job
reaches that ends there, which a longer job half way does not show. All train LoRA on the same last
blocks, at the same rate, on the same rows, dealt out unevenly; Method 2 makes the steps of all
sites in one place. Time is that of the processor, of all parties together, from the first message
or step to the last answer: unlike the clock's, it does not depend on what else the machine does.
Bytes are those of all sites, both ways: sealed messages; in plain federated learning the adapter,
as float32; what goes between an enclave and its own accelerator is not among them.

Keys of the JSON line, for each set: ``accuracy``, ``seconds`` and ``megabytes`` of each way and
number of rounds; ``method_1_at_equal_time_minus_local`` and ``..._method_2``: right answers, in
points, where the longest of Method 1's jobs ends, the others' read off between their marks.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from demo_rows import draw_rows, first_blocks
from in_process import Objects
from page import markdown_table, plot, write_plot, write_section
from sealtune.baseline.workbench import Workbench, weighted_mean
from sealtune.demo.data_sets import DATA_SETS
from sealtune.job.spec import Job
from stored_jobs import Settings, Stored, stored
from table_accuracy import Size, job_values

TABLE = "convergence"
SETS = ("icd10", "hpo")
ROUNDS = (1, 3, 9)
SIZE = Size(train=240, test=150, steps=4)
RATE = 3e-3
WAYS = {
    "local": ("local", "each site alone"),
    "plain-lora": ("plain federated", "plain federated"),
    "method-1-lora": ("Method 1", "Method 1, masked"),
    "method-2-lora": ("Method 2", "Method 2, split"),
}
_COLOURS = dict(zip(WAYS, ("#8a6d3b", "#57606a", "#0969da", "#1a7f37"), strict=True))


def work(model: Path, data: Path, settings: Settings) -> dict[str, Any]:
    """One job: the share of ``right`` answers, processor ``seconds`` and ``bytes``."""
    size = Size(**settings["size"])
    with tempfile.TemporaryDirectory(prefix="convergence-") as name:
        folder, source = Path(name), data / settings["set"]
        rows = draw_rows(source, folder, train=size.train, test=size.test, seed=settings["seed"])
        values = job_values(settings, size, first_blocks(model, size.blocks))
        values["data"] |= {"train": rows.train, "test": rows.test, "labels": rows.labels}
        job = Job.model_validate(values)
        if settings["column"].startswith("method"):
            return _of_method(job, folder / "run")
        return _of_baseline(job, averages=settings["column"] != "local")


def _of_method(job: Job, folder: Path) -> dict[str, Any]:
    objects = Objects(job, folder)
    server, begun = objects.server(), time.process_time()
    objects.carry(server)
    final = objects.of("final")[0]
    return {
        "right": final["correct"] / final["total"],
        "seconds": round(time.process_time() - begun, 2),
        "bytes": objects.up + objects.down,
    }


def _of_baseline(job: Job, *, averages: bool) -> dict[str, Any]:
    """FedAvg with nothing around it, or each site by itself; tested before and after, as a run."""
    bench, sent = Workbench(job), 0
    begun = time.process_time()
    bench.test(bench.initial)
    states = dict.fromkeys(bench.sites, bench.initial)
    sizes = [len(data.train) for data in bench.sites.values()]
    for number in range(1, job.job.rounds + 1):
        for site, data in bench.sites.items():
            states[site], _ = bench.train(
                states[site],
                data.train,
                round=number,
                site=site,
                steps=job.train.steps(len(data.train)),
                on_step=lambda _: None,
            )
        if averages:
            states = dict.fromkeys(states, weighted_mean(list(states.values()), sizes))
            sent += 2 * 4 * len(sizes) * sum(prod(t.shape) for t in bench.initial.values())
    different = list(states.values())[: 1 if averages else None]
    answers = [tuple(bench.test(state).values()) for state in different]
    return {
        "right": fmean(sum(a.correct for a in e) / sum(a.total for a in e) for e in answers),
        "seconds": round(time.process_time() - begun, 2),
        "bytes": sent,
    }


def figures(jobs: Sequence[Stored]) -> dict[str, Any]:
    """Means over the seeds, and Method 1 against others at the time that it takes."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(job.settings["set"] for job in jobs):
        of_set = [job for job in jobs if job.settings["set"] == name]
        curves = {
            way: _curve([job for job in of_set if job.settings["column"] == way]) for way in WAYS
        }
        end = curves["method-1-lora"]["seconds"][-1]
        reached = {
            way: float(np.interp(end, curve["seconds"], curve["accuracy"]))
            for way, curve in curves.items()
        }
        ahead = {
            f"method_1_at_equal_time_minus_{key}": round(reached["method-1-lora"] - reached[way], 1)
            for key, way in (("local", "local"), ("method_2", "method-2-lora"))
        }
        found[name] = {**curves, **ahead}
    return found


def _curve(jobs: Sequence[Stored]) -> dict[str, list[float]]:
    by_rounds: dict[int, list[Stored]] = {}
    for job in jobs:
        by_rounds.setdefault(job.settings["size"]["rounds"], []).append(job)
    lengths = sorted(by_rounds)

    def means(key: str, factor: float) -> list[float]:
        return [round(factor * fmean(j.figures[key] for j in by_rounds[n]), 2) for n in lengths]

    return {
        "rounds": [float(n) for n in lengths],
        "accuracy": means("right", 100),
        "seconds": means("seconds", 1),
        "megabytes": means("bytes", 1e-6),
    }


def markdown(found: Mapping[str, Any], size: Size, seeds: Sequence[int]) -> str:
    """Conditions, plot, table."""
    keys = ("rounds", "accuracy", "seconds", "megabytes")
    rows = [
        (name, WAYS[way][1], f"{n:.0f}", f"{right:.1f}", f"{seconds:.1f}", f"{sent:.2f}")
        for name, of in found.items()
        for way in WAYS
        for n, right, seconds, sent in zip(*(of[way][key] for key in keys), strict=True)
    ]
    said = (
        f"The first {size.blocks} blocks of SmolLM2-135M, LoRA of rank 8 on the last "
        f"{size.tuned}; {size.train} training rows of three sites (Dirichlet {size.alpha:g}) and "
        f"{size.test} test rows, of at most {size.tokens} tokens; {size.steps} steps of "
        f"{size.batch} rows a round at each site; learning rate {RATE:g}, warm-up and cosine; "
        f"seeds: {len(seeds)}. Each row is a whole job that ends there. Processor seconds are "
        "those of all parties together, in one process with one thread, without loading. One "
        f"standard error of a share of the test rows is up to {50 / size.test**0.5:.1f} points."
    )
    columns = ("set", "way", "rounds", "right, %", "processor seconds", "MB, all sites")
    image = "![Accuracy against time and bytes](convergence.svg)"
    return "\n\n".join((said, image, markdown_table(columns, rows)))


def draw(found: Mapping[str, Any]) -> None:
    """``docs/convergence.svg``: a row for each set, time on the left, bytes on the right."""
    figure, axes = plot(len(found), 2, height=3.2 * len(found))
    lines = np.atleast_2d(axes)
    for (left, right), (name, of) in zip(lines, found.items(), strict=True):
        for way, (label, _) in WAYS.items():
            style = {"color": _COLOURS[way], "label": label, "markersize": 4}
            left.plot(of[way]["seconds"], of[way]["accuracy"], "o-", **style)
            if way == "local":  # sends nothing
                right.axhline(of[way]["accuracy"][-1], color=_COLOURS[way], linestyle=":")
            else:
                right.plot(of[way]["megabytes"], of[way]["accuracy"], "o-", **style)
        left.set(xlabel="processor seconds", ylabel=f"{name}: right, %", xscale="log")
        right.set(xlabel="MB, all sites", xscale="log")
    lines[0][0].legend()
    write_plot(TABLE, figure)


def main() -> None:
    """Parse options, run, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("demo/model"), help="its folder")
    parser.add_argument("--data", type=Path, default=Path("demo/data"), help="folder of the sets")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one set, two lengths; no page")
    parser.add_argument("--fresh", action="store_true", help="run stored jobs again")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    sets, rounds = (("hpo",), (1, 2)) if options.quick else (SETS, ROUNDS)
    size = replace(SIZE, train=120, test=60) if options.quick else SIZE
    seeds = range(1, options.seeds + 1)
    for name in sets:
        DATA_SETS[name].make(options.data / name, lambda said: None)
    settings = [
        {
            "set": name,
            "column": way,
            "seed": seed,
            "rate": RATE,
            "size": asdict(replace(size, rounds=n)),
        }
        for n in rounds
        for name in sets
        for way in WAYS
        for seed in seeds
    ]
    jobs = stored(
        TABLE + "-quick" * options.quick,
        settings,
        partial(work, options.model, options.data),
        workers=options.workers,
        fresh=options.fresh,
    )
    found = figures(jobs)
    if not options.quick:
        write_section(TABLE, markdown(found, size, seeds))
        draw(found)
    if options.json:
        print(json.dumps(found, sort_keys=True))


if __name__ == "__main__":
    main()
