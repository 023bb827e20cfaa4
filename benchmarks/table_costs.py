"""Table 3: what each way to compute costs: real processes of `sealtune run`, one job a way.

Two sites, SmolLM2-135M cut to its first blocks, LoRA on all of them. All processes share the
machine's cores, so seconds are those of two sites that train at once; the plain run, which protects
nothing, trains one site after the other in a single process with all threads. A step's seconds are
the median of the times between two ends of steps; processor seconds are of the whole job and all
its processes, loading included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from demo_rows import draw_rows, first_blocks
from page import markdown_table
from sealtune.job.load import load_job
from sealtune.report.summary import build_summary
from stored_jobs import Settings, Stored, stored

TABLE = "table-3"
SITES = ("north", "south")
PLAIN, GPU, SPLIT = "plain", "attested GPU", "Method 2"
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    PLAIN: {},
    "enclave only": {"protection": {"compute": "enclave"}},
    "masked, pads ahead": {"protection": {"pad_budget": 1024}},
    "masked, pads within the step": {"protection": {"pad_budget": 0}},
    "masked, second accelerator": {"protection": {"pads": "second-accelerator"}},
    GPU: {"protection": {"compute": "attested-gpu"}},
    SPLIT: {"job": {"method": "split"}, "split": {"cut": 3}},
}
SIZE = {"blocks": 6, "tokens": 16, "train": 96, "test": 32, "rounds": 3, "steps": 6, "batch": 8}
_PARTS = ("enclave", "passes", "accelerator", "pads")
_THROUGH = ("enclave_to_accelerator", "accelerator_to_enclave", "pad_accelerator_to_enclave")


def work(model: Path, data: Path, settings: Settings) -> dict[str, Any]:
    """One run's figures."""
    with tempfile.TemporaryDirectory(prefix="cost-") as name:
        folder = Path(name)
        job = _job_file(model, data, settings, folder)
        if settings["way"] == PLAIN:
            command = [sys.executable, __file__, str(job)]
        else:
            main = [sys.executable, "-m", "sealtune.cli.main", "run", str(job)]
            command = [*main, "--runs", str(folder)]
        said = folder / "output"
        begun = time.perf_counter()
        with said.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = round(time.perf_counter() - begun, 1)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(said.read_text(errors="replace")[-2000:])
        whole = {"seconds": seconds, "processor": round(usage.ru_utime + usage.ru_stime, 1)}
        if settings["way"] != PLAIN:
            return whole | _of_run(folder / "costs", settings["size"])
        peak = usage.ru_maxrss / 1024
        step = json.loads(said.read_text().splitlines()[-1])
        return whole | {"step": step, "peak": {"one process": round(peak)}}


def _job_file(model: Path, data: Path, settings: Settings, folder: Path) -> Path:
    size = settings["size"]
    rows = draw_rows(data / "icd10", folder, train=size["train"], test=size["test"], seed=1)
    values: dict[str, dict[str, Any]] = {
        "job": {"name": "costs", "seed": 1, "rounds": size["rounds"]},
        "model": {"path": str(first_blocks(model, size["blocks"])), "task": "classification"},
        "data": {"train": str(rows.train), "test": str(rows.test), "labels": list(rows.labels),
                 "max_tokens": size["tokens"]},
        "sites": {"names": list(SITES), "partition": "dirichlet", "alpha": 100.0},
        "tuning": {"rank": 8},
        "train": {"steps_per_round": size["steps"], "batch_size": size["batch"]},
        "privacy": {"site_metrics": True},
    }  # fmt: skip
    if settings["way"] == SPLIT:
        values["train"]["steps_per_round"] *= len(SITES)
    for section, keys in WAYS[settings["way"]].items():
        values[section] = values.get(section, {}) | keys
    path = folder / "job.toml"
    path.write_text(
        "\n".join(
            f"[{section}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for section, keys in values.items()
        )
    )
    return path


def _of_run(folder: Path, size: Mapping[str, Any]) -> dict[str, Any]:
    """Steps, memory and bytes of a finished run."""
    summary = build_summary(folder)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    busy = [e["seconds"] for e in events if e.get("event") == "worked" and e["stage"] == "train"]
    steps = size["steps"]
    parts = {
        key: round(statistics.fmean(one.get(key) or 0.0 for one in busy) / steps, 4)
        for key in _PARTS
        if busy
    }
    sent = {key: value for key, value in summary["bytes"].items() if value is not None}
    uploads = [e["seconds"] for e in events if e.get("event") == "uploaded"]
    return {
        "step": round(statistics.median(_between_steps(events)), 4),
        "parts": parts,
        "bottom": round(sum(uploads) / len(SITES), 3),
        "bytes": sent,
        "peak": {role: round(mib) for role, mib in summary["peak_memory_mib"].items()},
    }


def _between_steps(events: list[dict[str, Any]]) -> Iterator[float]:
    """Seconds from one step of a round to the next, of whoever trains."""
    ends: dict[Any, list[float]] = {}
    for event in events:
        if event.get("event") == "step":
            ends.setdefault((event["role"], event["round"]), []).append(event["time"])
    for times in ends.values():
        yield from (round(b - a, 4) for a, b in pairwise(times))


def plain(job_file: Path) -> float:
    """The median step of plain federated training, in this process."""
    from sealtune.baseline.workbench import Workbench

    job = load_job(job_file)
    bench = Workbench(job)
    state, seconds = bench.initial, []
    for number in range(1, job.job.rounds + 1):
        for site, texts in bench.sites.items():
            ends: list[float] = []
            state, _ = bench.train(
                state, texts.train, round=number, site=site,
                steps=int(job.train.steps_per_round),
                on_step=lambda info, ends=ends: ends.append(time.perf_counter()),
            )  # fmt: skip
            seconds += [b - a for a, b in pairwise(ends)]
    bench.test(state)
    return round(statistics.median(seconds), 4)


# --- the table ----------------------------------------------------------------------------------


def costs(model: Path, data: Path, *, quick: bool, fresh: bool) -> list[Stored]:
    """Every way's figures, one run after another."""
    size = SIZE | ({"train": 32, "rounds": 1, "steps": 3} if quick else {})
    ways = ("plain", "masked, pads within the step") if quick else tuple(WAYS)
    settings = [
        {"way": way, "size": size} for way in ways if way != GPU or torch.cuda.is_available()
    ]
    table = f"{TABLE}-quick" if quick else TABLE
    return stored(table, settings, partial(work, model, data), fresh=fresh)


def figures(jobs: list[Stored]) -> dict[str, Any]:
    """``costs``: way -> ``step`` and ``ratio`` (over plain), and everything that was measured."""
    found = {job.settings["way"]: job.figures for job in jobs}
    plain_step = found[PLAIN]["step"]
    return {"costs": {w: f | {"ratio": round(f["step"] / plain_step, 2)} for w, f in found.items()}}


def markdown(jobs: list[Stored]) -> str:
    """The section of the page."""
    size, costs_ = jobs[0].settings["size"], figures(jobs)["costs"]
    machine = jobs[0].versions["processor"]
    columns = (
        "way", "step, s", "over plain", *_PARTS,
        "peak MiB: site", "server", "accelerators", "bytes to and from them, by step",
        "bytes of the job to the server", "from it", "job, s", "job, processor s",
    )  # fmt: skip
    rows = [_row(way, costs_[way], size) for way in WAYS if way in costs_]
    split = costs_.get(SPLIT)
    said = f"""
    `sealtune run` on {machine}, which other work shared. SmolLM2-135M cut to its first
    {size["blocks"]} blocks, ICD-10 texts of {size["tokens"]} tokens at most, LoRA of rank 8 on all
    blocks, two sites, {size["rounds"]} rounds of {size["steps"]} steps of {size["batch"]} rows at
    each. *Step*: median seconds from the end of one to that of the next, two sites at once (plain:
    one after the other, in one process with all cores). *Enclave* to *pads*: where a site's time in
    a training round goes, by step. Bytes to and from accelerators are the whole job's, evaluations
    included, by step. Method 2 trains the upper half, at the server. On shared cores a party's
    time by the clock follows from how many processes wait beside it, so steps of one process and
    of several are no fair comparison; processor seconds are fairer.
    """
    parts = [" ".join(said.split()), markdown_table(columns, rows)]
    if split:
        said = f"""
        Method 2 at a site: {split["bottom"]:.1f} s once, for the lower blocks of all its rows
        ({split["bytes"]["up"] // len(SITES):,} bytes up); at the server: the step above.
        """
        parts.append(" ".join(said.split()))
    if GPU not in costs_:
        parts.append("An attested GPU is measured where there is a CUDA device; here was none.")
    return "\n\n".join(parts)


def _row(way: str, of: Mapping[str, Any], size: Mapping[str, Any]) -> tuple[str, ...]:
    peak, parts, sent = of["peak"], of.get("parts", {}), of.get("bytes", {})
    sites = [mib for role, mib in peak.items() if role.startswith(("client:", "one process"))]
    helpers = [peak[role] for role in ("accelerator", "pad-accelerator") if role in peak]
    through = sum(sent.get(key, 0) for key in _THROUGH)
    steps = size["rounds"] * size["steps"] * len(SITES)
    return (
        way,
        f"{of['step']:.3f}",
        f"{of['ratio']:.2f} x",
        *(f"{parts[part]:.3f}" if parts else "" for part in _PARTS),
        _number(max(sites)),
        _number(peak.get("server")),
        " and ".join(map(_number, helpers)),
        _number(through / steps if through else None),
        _number(sent.get("up")),
        _number(sent.get("down")),
        _number(of["seconds"]),
        _number(of["processor"]),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


if __name__ == "__main__":
    print(json.dumps(plain(Path(sys.argv[1]))))
