"""What attackers get: `sealtune audit` on real runs of the four kinds of jobs.

    python benchmarks/audits.py                   # what is not stored is run, attack by attack
    python benchmarks/audits.py --only federated  # one of federated, pads, split, sums
    python benchmarks/audits.py --stored          # the page from what is stored

Each run is a `sealtune run` of ICD-10 on SmolLM2-135M with few rounds: attacks work on its first
blocks and some of its rows, under its own settings. Runs are kept in the cache. Keys of the JSON
line: run -> attack -> variant -> ``baseline``, ``protected``, ``chance`` and ``verdict``; and
``verdicts``, how often there is each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cut_data import benchmark_cache
from page import markdown_table, write_section
from sealtune.audit.attacks import ATTACKS
from sealtune.audit.record import AUDIT
from stored_jobs import Stored, kept, stored

TABLE = "audit"
NAMES = {
    "federated": "Method 1, masked",
    "pads": "Method 1, masked, with a pad accelerator",
    "split": "Method 2",
    "sums": "secure aggregation, no TEE",
}
_ROWS = {"federated": (300, 60), "pads": (150, 30), "split": (300, 60), "sums": (200, 40)}
_SITES = {"federated": 3, "pads": 3, "split": 2, "sums": 4}
_LORA = "[tuning.lora]\nrank = 8\nlayers = [26, 27, 28, 29]\n"
_OWN = {
    "federated": _LORA,
    "pads": _LORA + '[protection]\npads = "second-accelerator"\n',
    "split": "[split]\ncut = 24\n[tuning.lora]\nrank = 8\n[tuning.spf]\nqkv = 0.25\ndense = 0.25\n",
    "sums": _LORA + '[aggregation]\nnorm_bound = "none"\n',
}
_JOB = """[job]
name = "{name}"
seed = 7
rounds = 1
{kind}
[model]
path = "{model}"
task = "classification"
[data]
train = "{data}/icd10/train.jsonl"
test = "{data}/icd10/test.jsonl"
max_tokens = 32
max_train_rows = {rows}
max_test_rows = {test}
[sites]
names = {sites}
partition = "dirichlet"
alpha = 0.5
[train]
steps_per_round = 2
batch_size = 8
learning_rate = {rate}
{own}"""
_KINDS = {"split": 'method = "split"', "sums": 'trust = "secure-aggregation"'}


def job_file(name: str, model: str, data: str) -> str:
    """The job of a run."""
    rows, test = _ROWS[name]
    return _JOB.format(
        name=name,
        kind=_KINDS.get(name, ""),
        model=Path(model).resolve(),
        data=Path(data).resolve(),
        rows=rows,
        test=test,
        sites=json.dumps(["north", "south", "west", "east"][: _SITES[name]]),
        rate="1e-3" if name == "split" else "2e-3",
        own=_OWN[name],
    )


def attacked(settings: Mapping[str, Any], *, model: str, data: str) -> dict[str, Any]:
    """One attack on one run, which is made first unless it is there."""
    folder, name = benchmark_cache() / "audit", str(settings["run"])
    folder.mkdir(parents=True, exist_ok=True)
    file, run_dir = folder / f"{name}.toml", folder / "runs" / name
    wanted = job_file(name, model, data)
    if not (run_dir / "adapter").is_dir() or not file.is_file() or file.read_text() != wanted:
        file.write_text(wanted)
        _sealtune("run", str(file), "--runs", str(run_dir.parent), "--force")
    _sealtune("audit", str(run_dir), "--only", str(settings["attack"]), may_be_broken=True)
    record = json.loads((run_dir / AUDIT).read_text())
    entry = next(one for one in record["attacks"] if one["name"] == settings["attack"])
    return {key: entry[key] for key in ("not_applicable", "seconds", "findings")}


def _sealtune(*words: str, may_be_broken: bool = False) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sealtune.cli.main", *words],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode and not (may_be_broken and done.returncode == 1):
        raise RuntimeError(f"sealtune {' '.join(words)}\n{done.stderr[-2000:]}")


def page(jobs: Sequence[Stored]) -> str:
    """The section: a table for each run."""
    parts, order = [], [attack.name for attack in ATTACKS]
    for name, title in NAMES.items():
        found = {job.settings["attack"]: job for job in jobs if job.settings["run"] == name}
        of_run = [found[attack] for attack in order if attack in found]
        rows = [
            (
                job.settings["attack"], one["variant"], one["measure"], f"{one['chance']:.3g}",
                _rate(one["baseline"]), _rate(one["protected"]), one["verdict"],
            )
            for job in of_run
            for one in job.figures["findings"]
        ]  # fmt: skip
        apart = [job.settings["attack"] for job in of_run if job.figures["not_applicable"]]
        if not rows:
            continue
        columns = ("attack", "variant", "success counts", "guessing", "without", "with", "verdict")
        words = [
            f"{what}: {', '.join(names)}."
            for what, names in (
                ("Do not apply", apart),
                ("Not stored yet", [attack for attack in order if attack not in found]),
            )
            if names
        ]
        parts.append(f"### {title}\n\n{markdown_table(columns, rows)}\n\n{' '.join(words)}")
    return "\n\n".join(parts)


def _rate(rate: Mapping[str, float] | None) -> str:
    if rate is None:
        return "no protection"
    return f"{rate['value']:.3g} ({rate['low']:.3g} to {rate['high']:.3g})"


def keys(jobs: Sequence[Stored]) -> dict[str, Any]:
    """The JSON line."""
    found: dict[str, Any] = {}
    for job in jobs:
        of_run = found.setdefault(job.settings["run"], {})
        of_run[job.settings["attack"]] = {
            one["variant"]: {
                "baseline": one["baseline"]["value"],
                "protected": one["protected"] and one["protected"]["value"],
                "chance": one["chance"],
                "verdict": one["verdict"],
            }
            for one in job.figures["findings"]
        }
    every = [one["verdict"] for job in jobs for one in job.figures["findings"]]
    return {**found, "verdicts": dict(Counter(every))}


def main() -> None:
    """Parse the command line, attack, write."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=NAMES, help="one run; writes no page")
    parser.add_argument("--model", default="demo/model", help="folder of the backbone")
    parser.add_argument("--data", default="demo/data", help="folder of the demo sets")
    parser.add_argument("--stored", action="store_true", help="only write what is stored")
    parser.add_argument("--fresh", action="store_true", help="run stored attacks again")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    settings = [
        {"run": run, "attack": attack.name, "model": "SmolLM2-135M-Instruct"}
        for run in ([options.only] if options.only else NAMES)
        for attack in ATTACKS
    ]
    run = partial(attacked, model=options.model, data=options.data)
    jobs = kept(TABLE) if options.stored else stored(TABLE, settings, run, fresh=options.fresh)
    if not options.only:
        write_section(TABLE, page(jobs))
    found = keys(jobs)
    print(json.dumps(found if options.json else found["verdicts"]))


if __name__ == "__main__":
    main()
