"""64 sites' updates of 50 MB through the aggregator's round: memory, and speed against numpy.

An adapter of rank 8 on layers 4096 wide. What is timed is what a run does with an opened answer:
its bytes are read from a file, held against the bounds, compared with the others', clipped and
added; and at the end the next adapter is made. Between any two answers, numpy reads the same file
once and adds it to a running sum in double precision, as a mean needs it (float32 and no running
sum at all are reported, too).

Memory and speed are measured in processes of their own, since numpy's sum would count as memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.table import Table

from sealtune.job.settings import Settings
from sealtune.memory import peak_mib
from sealtune.methods.federated.adapter import adapter_size, write_adapter
from sealtune.methods.federated.norm_bound import FIRST_RATIO
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.training_round import TrainingRound

WIDTH, RANK, LAYERS = 4096, 8, 190
SITES = tuple(f"site-{number:02}" for number in range(64))
RATE, STEPS, ROWS = 1e-3, 10, 500
FILES = 4  # different answers; each is read afresh for every site that sends it
SHAPES = {
    f"layers.{layer:03}.q_proj.lora_{side}.weight": shape
    for layer in range(LAYERS)
    for side, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK)))
}
BASELINES = {
    "double precision": np.float64,  # what ``throughput_ratio`` is against
    "float32": np.float32,
    "sum alone": None,
}


def count(*, quick: bool) -> int:
    """How many steps ``measure`` tells of."""
    return 2 if quick else 4


def measure(*, quick: bool, advance: Callable[[str], None]) -> dict[str, Any]:
    """Both processes, the second one three times (once if quick).

    Returns:
        ``peak_mib`` above idle; ``throughput_ratio``, the median over runs of numpy's seconds over
        the aggregator's; ``ratios`` against each baseline; ``mb_per_s``; ``update_mb``; ``sites``;
        ``cores``.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder))
        memory = _child("memory", folder, quick)
        advance("memory")
        runs = []
        for number in range(1 if quick else 3):
            runs.append(_child("speed", folder, quick))
            advance(f"speed, run {number + 1}")
    ratios = {name: statistics.median(run["ratios"][name] for run in runs) for name in BASELINES}
    return {
        **memory,
        "throughput_ratio": ratios["double precision"],
        "ratios": ratios,
        "mb_per_s": statistics.median(run["mb_per_s"] for run in runs),
        "update_mb": adapter_size(SHAPES) / 1e6,
        "cores": len(os.sched_getaffinity(0)),
    }


def table(result: dict[str, Any]) -> Table:
    """For people."""
    title = f"{result['sites']} updates of {result['update_mb']:.0f} MB, {result['cores']} cores"
    shown = Table("figure", "value", title=title)
    shown.add_row("peak memory above idle", f"{result['peak_mib']:.0f} MiB")
    shown.add_row("throughput", f"{result['mb_per_s']:.0f} MB/s")
    for name, ratio in result["ratios"].items():
        shown.add_row(f"against one numpy pass, {name}", f"{ratio:.2f}")
    return shown


# --- a process each -----------------------------------------------------------------------------


def _child(what: str, folder: str, quick: bool) -> dict[str, Any]:
    words = [sys.executable, __file__, what, folder, "16" if quick and what == "speed" else "64"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _write(folder: Path) -> None:
    """The global adapter, and answers of honest sites."""
    source = np.random.default_rng(1)
    before = {n: source.uniform(-0.02, 0.02, s).astype(np.float32) for n, s in SHAPES.items()}
    (folder / "before").write_bytes(write_adapter(before))
    common = {n: source.normal(0, 1, s).astype(np.float32) for n, s in SHAPES.items()}
    for number in range(FILES):
        own = {
            n: t + np.float32(0.2 * RATE * STEPS)
            * (common[n] + source.normal(0, 1, t.shape).astype(np.float32))
            for n, t in before.items()
        }  # fmt: skip
        (folder / f"answer-{number}").write_bytes(write_adapter(own))


def _round(folder: Path) -> TrainingRound:
    settings = Settings.model_validate(
        {
            "job": {"name": "stream"},
            "model": {},
            "data": {},
            "sites": {"names": list(SITES)},
            "train": {"learning_rate": RATE, "steps_per_round": STEPS},
        }
    )
    rows = {site: SimpleNamespace(train_rows=ROWS + i) for i, site in enumerate(SITES)}
    admitted: Any = SimpleNamespace(
        settings=settings,
        plan=SimpleNamespace(shared=SHAPES, trainable=SHAPES),
        manifest=SimpleNamespace(data=rows, dp=None, rounds=settings.job.rounds),
        state_folder=folder,
        sealing_key=bytes(32),
        job_id="00" * 48,
    )
    outgoing = Outgoing((folder / "before").read_bytes(), SHAPES, settings.tuning)
    return TrainingRound(admitted, outgoing, FIRST_RATIO, {}, number=1)


def memory(folder: Path, sites: int) -> dict[str, Any]:
    """Peak of a whole round above what the process holds when all is loaded and nothing is done."""
    idle = peak_mib()
    round_ = _round(folder)
    for number, site in enumerate(SITES[:sites]):
        answer = (folder / f"answer-{number % FILES}").read_bytes()
        round_.take(site, round_.check(site, answer))
        del answer
    write_adapter(round_.result())
    return {"peak_mib": round(peak_mib() - idle, 1), "sites": sites}


def speed(folder: Path, sites: int) -> dict[str, Any]:
    """Seconds of the round, and of each baseline on the same bytes between its answers."""
    size = adapter_size(SHAPES) // 4
    sums = {name: np.zeros(size, kind) for name, kind in BASELINES.items() if kind}
    seconds: dict[str, list[float]] = {name: [] for name in (*BASELINES, "round")}
    round_ = _round(folder)
    for number, site in enumerate(SITES[:sites]):
        path = folder / f"answer-{number % FILES}"
        header = path.stat().st_size - 4 * size
        start = time.perf_counter()
        round_.take(site, round_.check(site, path.read_bytes()))
        seconds["round"].append(time.perf_counter() - start)
        for name in BASELINES:
            start = time.perf_counter()
            numbers = np.fromfile(path, np.float32, size, offset=header)
            if name in sums:
                np.add(sums[name], numbers, out=sums[name])
            else:
                numbers.sum()
            seconds[name].append(time.perf_counter() - start)
    start = time.perf_counter()
    round_.result()
    last = (time.perf_counter() - start) / sites
    each = statistics.median(seconds["round"]) + last
    ratios = {name: statistics.median(seconds[name]) / each for name in BASELINES}
    return {"ratios": ratios, "mb_per_s": 4 * size / 1e6 / each}


if __name__ == "__main__":
    work = {"memory": memory, "speed": speed}[sys.argv[1]]
    print(json.dumps(work(Path(sys.argv[2]), int(sys.argv[3]))))
