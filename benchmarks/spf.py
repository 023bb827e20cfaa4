"""SPF against LoRA and full fine-tuning, on the top blocks of a split model.

    python benchmarks/spf.py                  # an hour or more on 2 cores; needs demo/ (make demo)
    python benchmarks/spf.py --quick --json                 # within 4 minutes on 2 cores
    python benchmarks/spf.py --only forms,methods           # some of the parts

Every run trains blocks 24 to 29 of SmolLM2-135M and a fresh head on cut activations of a demo set.
LoRA is r=8 on q, k, v, o; ``full`` trains those four matrices whole; ``spf 25 %`` trains a quarter
of each block's heads, the largest by L1 norm. Parts:

    ratios      shares of the heads: accuracy, trainable parameters, step time, memory
    methods     SPF + LoRA against each of its halves and against full, on five medical sets
    selectors   ways to choose the heads
    forms       how cut activations are written: fp32, bf16, int8

Learning rates: the best of ``GRID`` after half the steps, on the last training rows, which these
runs do not train on (seed 100); never the test rows. Finished runs are kept in the cache, so an
interrupted benchmark goes on; ``--fresh`` forgets them.

Keys of the JSON line: ``step_ratio_25`` = step of SPF 25 % / step of LoRA, median over interleaved
rounds (``processor_to_lora`` is the same in processor time, for a machine that is not quiet);
``memory_ratio_25`` = bytes of gradients and optimizer state of SPF 25 % / those of full,
head apart; then one key for each part.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two workers share the cores

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from cut_data import CutData, CutSpec, benchmark_cache, cut_data, make_cut_data
from output import progress, table
from sealtune.job.sections import HEAD, LoraSpec, SpfSpec, TrainSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.model.activations import Form, bytes_per_token
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.samples import CutBatch
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import Classification
from sealtune.model.training import evaluate, local_round, make_optimizer
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.head import fresh_head
from sealtune.tuning.spf.ranking import Calibrate

CUT = 24  # of 30 blocks
GRID = (5e-4, 1.5e-3, 4e-3)  # learning rates
TUNING_SEED = 100
PARTS = ("ratios", "methods", "selectors", "forms")
SHARES = (0.125, 0.25, 0.5, 0.625, 1.0)
SELECTORS = ("l1-largest", "l1-smallest", "random", "gradient", "activation")
FORMS: tuple[Form, ...] = ("fp32", "bf16", "int8")
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Method:
    """What is trained of each block.

    Attributes:
        lora: LoRA r=8.
        spf: share of the heads; 0: no SPF.
        select: how SPF chooses heads.
        full: the four attention matrices whole, and nothing else.
    """

    lora: bool = False
    spf: float = 0.0
    select: str = "l1-largest"
    full: bool = False

    def __str__(self) -> str:
        if self.full:
            return "full"
        select = "" if self.select == "l1-largest" else f" {self.select}"
        names = [f"spf {self.spf:.3g}{select}"] if self.spf else []
        return " + ".join([*names, *(["lora"] if self.lora else [])])


LORA, FULL = Method(lora=True), Method(full=True)
SPF, BOTH = Method(spf=0.25), Method(spf=0.25, lora=True)


@dataclass(frozen=True)
class Size:
    """Rows and steps of one set; the longer its texts, the fewer."""

    train: int
    test: int
    steps: int
    batch: int = 16


SIZES = {
    "icd10": Size(2400, 1500, 120),
    "hpo": Size(1600, 600, 80, batch=8),
    "medmcqa-subject": Size(640, 400, 60, batch=8),
    "drug-reviews": Size(480, 294, 40, batch=8),
    "pubmedqa": Size(480, 201, 40, batch=8),
}
QUICK = {"icd10": Size(320, 200, 16)}


@dataclass(frozen=True)
class Run:
    """One training and its evaluation: a work item.

    Attributes:
        data: cut activations.
        method: what is trained.
        seed: of first values and of the order of batches.
        steps: how many.
        batch: samples of a step.
        rate: learning rate; None: the one that tuning finds.
        held: training rows at the end that are kept out and scored on, instead of the test rows.
    """

    data: CutSpec
    method: Method
    seed: int
    steps: int
    batch: int
    rate: float | None = None
    held: int = 0

    @property
    def tuning(self) -> tuple[Run, ...]:
        """The runs that ``rate`` follows from: every share and selector of SPF has the same."""
        if self.rate is not None:
            return ()
        method = replace(self.method, spf=SPF.spf if self.method.spf else 0, select=SPF.select)
        data = replace(self.data, form="bf16")
        held, steps = min(400, self.data.train // 3), self.steps // 2
        fixed = Run(data, method, TUNING_SEED, steps, self.batch, held=held)
        return tuple(replace(fixed, rate=rate) for rate in GRID)

    def key(self) -> str:
        """Names the run in the file of finished ones."""
        steps = f"{self.steps} x {self.batch}"
        settings = f"seed {self.seed}, {steps}, rate {self.rate}, held {self.held}"
        return f"{self.data.file().stem} | {self.method} | {settings}"


Done = dict[str, dict[str, Any]]  # key of a run -> what came of it


# --- models -------------------------------------------------------------------------------------


def tuned_top(top: Any, method: Method, seed: int, calibrate: Calibrate | None = None) -> Any:
    """Make ``top`` trainable by ``method``."""
    if not method.full:
        tuning = TuningSpec(
            lora=LoraSpec(rank=8) if method.lora else None,
            spf=SpfSpec(qkv=method.spf, dense=method.spf, select=method.select)  # type: ignore[arg-type]
            if method.spf
            else None,
        )
        return apply_tuning(
            top, tuning, "classification", seed, first_block=CUT, calibrate=calibrate
        )
    fresh_head(top, seed)
    _, blocks = find_blocks(top)
    for block in blocks[CUT:]:
        for name in MATRICES:
            getattr(block.self_attn, name).weight.requires_grad_(True)
    return top


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters of the blocks, without the head."""
    named = model.named_parameters()
    return [p for name, p in named if p.requires_grad and f".{HEAD}." not in f".{name}"]


# --- accuracy -----------------------------------------------------------------------------------


@cache
def _data(spec: CutSpec) -> tuple[CutData, Any]:
    return cut_data(spec), load_tokenizer(spec.model_spec)


def work(run: Run) -> dict[str, Any]:
    """Train and evaluate: what a worker process does."""
    data, tokenizer = _data(run.data)
    top = load_part(data.spec.model_spec, len(data.labels), CUT, "top")
    task, entry = data.task(tokenizer), CutEntry(top, CUT)
    kept = len(data.train) - run.held
    train = data.samples(data.train[:kept], entry, task)
    test = data.samples(data.train[kept:] if run.held else data.test, entry, task)
    first = range(min(32, kept))
    model = tuned_top(top, run.method, run.seed, lambda: task.loss(top, train.batch(first)))
    assert run.rate is not None
    spec = TrainSpec(steps_per_round=run.steps, batch_size=run.batch, learning_rate=run.rate)
    start = time.perf_counter()
    trained = local_round(model, task, train, spec, seed=run.seed, round=1, site="all")
    seconds = time.perf_counter() - start
    found = evaluate(model, task, test, batch_size=64)
    return {
        "accuracy": found.correct / found.total,
        "loss": found.loss,
        "train_loss": trained.train_loss,
        "rows": found.total,
        "seconds": seconds,
    }


def make_data(spec: CutSpec) -> dict[str, Any]:
    """Make every form of a set's cut activations: what a worker does before the first run."""
    make_cut_data(spec, FORMS if spec.name == "icd10" else (spec.form,))
    return {}


class Store:
    """Finished runs, as lines of JSON in the cache.

    Args:
        fresh: forget what is there.
    """

    def __init__(self, fresh: bool) -> None:
        self._path = benchmark_cache() / "spf-runs.jsonl"
        if fresh:
            self._path.unlink(missing_ok=True)
        self.done: Done = {}
        if self._path.is_file():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # the last line of a run that was killed
                    entry = json.loads(line)
                    self.done[entry["key"]] = entry

    def add(self, run: Run, result: dict[str, Any]) -> None:
        """Keep what came of a run."""
        entry = {"key": run.key(), **result}
        self.done[run.key()] = entry
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def resolved(self, run: Run) -> Run | None:
        """``run`` with its learning rate, or None as long as tuning goes on."""
        if run.rate is not None:
            return run
        if not all(one.key() in self.done for one in run.tuning):
            return None
        best = max(run.tuning, key=self._score)
        return replace(run, rate=best.rate)

    def result(self, run: Run) -> dict[str, Any] | None:
        """What came of a run, with its rate; None if it is not finished."""
        known = self.resolved(run)
        found = self.done.get(known.key()) if known else None
        return {**found, "rate": known.rate} if found and known else None

    def _score(self, run: Run) -> tuple[float, float]:
        found = self.done[run.key()]
        return found["accuracy"], -found["loss"]


def start_worker() -> None:
    """One thread for each worker."""
    torch.set_num_threads(1)


def finish(runs: Sequence[Run], store: Store, workers: int) -> None:
    """Do every run that is not done yet, tuning and data first, ``workers`` at a time."""
    # the last seed of the slow sets comes at the end, so that a run cut short has all figures
    runs = sorted(runs, key=lambda run: run.data.name != "icd10" and run.seed > 2)
    queue = list(dict.fromkeys(one for run in runs for one in (*run.tuning, run)))
    waiting = [run for run in queue if store.result(run) is None]
    making: set[CutSpec] = set()
    running: dict[Future[dict[str, Any]], Run | CutSpec] = {}
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool,
        progress(len(waiting)) as report,
    ):
        while waiting or running:
            for job in list(_ready(waiting, store, making)):
                if len(running) == workers:
                    break
                if isinstance(job, CutSpec):
                    making.add(job)
                    running[pool.submit(make_data, job)] = job
                else:
                    waiting = [run for run in waiting if store.resolved(run) != job]
                    running[pool.submit(work, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                result = future.result()
                if isinstance(job, Run):
                    store.add(job, result)
                    report(f"{job.key()}: {result['accuracy']:.3f} in {result['seconds']:.0f} s")


def _ready(waiting: Sequence[Run], store: Store, making: set[CutSpec]) -> Iterator[Run | CutSpec]:
    """What can be begun now, in order."""
    begun = set(making)
    for run in waiting:
        if not run.data.file().is_file():
            data = replace(run.data, form="bf16")
            if data not in begun:
                begun.add(data)
                yield data
        elif known := store.resolved(run):
            yield known


# --- step time and memory -----------------------------------------------------------------------


class OneStep:
    """A model that is trained on one random batch of 8 x 64 tokens, fp32, step by step.

    Args:
        method: what is trained.
        model: folder of the backbone.
    """

    def __init__(self, method: Method, model: str) -> None:
        spec = ModelSpec(path=model, task="classification")
        source = torch.Generator().manual_seed(3)
        top = load_part(spec, 21, CUT, "top")
        width = int(top.config.hidden_size)
        self._batch = CutBatch(
            torch.ones(8, 64, dtype=torch.int64),
            torch.full((8,), 64),
            torch.randint(21, (8,), generator=source),
            torch.randn(8, 64, width, generator=source),
            CutEntry(top, CUT),
        )
        names = [str(number) for number in range(21)]
        self._task = Classification(load_tokenizer(spec), 64, "{text}", names)
        self.model = tuned_top(top, method, 1)
        self.model.train()
        self.optimizer = make_optimizer(self.model, TrainSpec())

    def __call__(self) -> tuple[float, float]:
        """Forward, loss, backward, AdamW; returns seconds of wall clock and of processor."""
        start, used = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        self._task.loss(self.model, self._batch).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return time.perf_counter() - start, time.process_time() - used

    def state_bytes(self) -> int:
        """Bytes of gradients and optimizer state that are allocated now, head apart."""
        total = 0
        for parameter in trainable(self.model):
            kept: list[Tensor] = list(self.optimizer.state[parameter].values())
            total += sum(t.nbytes for t in (*kept, parameter.grad) if t is not None)
        return total


def measure_steps(compared: Sequence[Method], rounds: int, model: str) -> dict[str, Any]:
    """One step of each method in turn, ``rounds`` times; a round before them warms up."""
    steps = {method: OneStep(method, model) for method in compared}
    seconds: dict[Method, list[float]] = {method: [] for method in compared}
    processor: dict[Method, list[float]] = {method: [] for method in compared}
    for number in range(rounds + 1):
        turn = number % len(compared)
        for method in (*compared[turn:], *compared[:turn]):
            wall, used = steps[method]()
            if number:
                seconds[method].append(wall)
                processor[method].append(used)
    size = {method: sum(p.numel() for p in trainable(s.model)) for method, s in steps.items()}
    return {
        str(method): {
            "trainable": size[method],
            "share_of_full": size[method] / size[FULL],
            "seconds": statistics.median(seconds[method]),
            "step_to_lora": ratio(seconds[method], seconds[LORA]),
            "step_to_full": ratio(seconds[method], seconds[FULL]),
            "processor_to_lora": ratio(processor[method], processor[LORA]),
            "state_bytes": steps[method].state_bytes(),
            "memory_to_lora": steps[method].state_bytes() / steps[LORA].state_bytes(),
            "memory_to_full": steps[method].state_bytes() / steps[FULL].state_bytes(),
        }
        for method in compared
    }


def ratio(values: Sequence[float], to: Sequence[float]) -> list[float]:
    """Median of the per-round ratios, lower quartile, upper quartile."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(values, to, strict=True)], n=4, method="inclusive"
    )
    return [round(x, 3) for x in (middle, low, high)]


def extra_rss(method: Method, model: str) -> int | None:
    """What the process's resident memory grew by, at its peak, in three steps; Linux only."""
    step = OneStep(method, model)
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        reset.write_text("5")  # the peak starts again from here
        before = _kilobytes(status, "VmRSS")
        for _ in range(3):
            step()
        return (_kilobytes(status, "VmHWM") - before) * 1024
    except (OSError, AttributeError):
        return None


def _kilobytes(status: Path, name: str) -> int:
    line = next(x for x in status.read_text().splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1])


def in_fresh_process(call: Callable[..., Any], *arguments: object) -> Any:
    """Call ``call`` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


# --- parts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Which runs there are.

    Attributes:
        sizes: rows and steps of each set.
        sets: the sets that ``methods`` is about.
        seeds: of the final runs.
        shares: SPF's ratios.
        rate: learning rate of every run; None: tuned.
        model: folder of the backbone.
        data: folder of the demo sets.
    """

    sizes: dict[str, Size]
    sets: tuple[str, ...]
    seeds: tuple[int, ...]
    shares: tuple[float, ...]
    rate: float | None
    model: str
    data: str

    def runs(self, name: str, method: Method, form: Form = "bf16") -> list[Run]:
        """The final runs of a method, one for each seed."""
        size = self.sizes[name]
        spec = CutSpec(name, size.train, size.test, CUT, form, self.model, self.data)
        steps, batch = size.steps, size.batch
        return [Run(spec, method, seed, steps, batch, self.rate) for seed in self.seeds]

    @property
    def selector_sets(self) -> list[str]:
        """The sets on which selectors are compared."""
        return [name for name in ("icd10", "hpo") if name in self.sets]

    def part(self, part: str) -> list[Run]:
        """Every final run of a part."""
        runs = {
            "forms": [r for form in FORMS for r in self.runs("icd10", LORA, form)],
            "methods": [
                r
                for name in self.sets
                for method in (LORA, BOTH, SPF, FULL)
                for r in self.runs(name, method)
            ],
            "selectors": [
                r
                for name in self.selector_sets
                for select in SELECTORS
                for r in self.runs(name, replace(SPF, select=select))
            ],
            "ratios": [
                r
                for method in (*(Method(spf=share) for share in self.shares), LORA, FULL)
                for r in self.runs("icd10", method)
            ],
        }
        return runs[part]


def summary(runs: Sequence[Run], store: Store) -> dict[str, Any]:
    """Accuracy of a method over seeds, in percent."""
    found = [result for run in runs if (result := store.result(run))]
    if not found:
        return {"seeds": 0}
    accuracy = [100 * result["accuracy"] for result in found]
    return {
        "mean": round(statistics.mean(accuracy), 2),
        "low": round(min(accuracy), 2),
        "high": round(max(accuracy), 2),
        "loss": round(statistics.mean(result["loss"] for result in found), 3),
        "seeds": len(found),
        "rate": found[0]["rate"],
        "rows": found[0]["rows"],
    }


def difference(runs: Sequence[Run], to: Sequence[Run], store: Store) -> dict[str, Any]:
    """Mean difference of accuracy with the same seed, in points, and its standard error."""
    pairs = [(store.result(a), store.result(b)) for a, b in zip(runs, to, strict=True)]
    gaps = [100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs if a and b]
    if not gaps:
        return {"pairs": 0}
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None
    return {
        "mean": round(statistics.mean(gaps), 2),
        "standard_error": None if error is None else round(error, 2),
        "pairs": len(gaps),
    }


def forms(plan: Plan, store: Store) -> dict[str, Any]:
    """Part ``forms``."""
    reference = plan.runs("icd10", LORA, "fp32")
    width = _width(reference[0].data)
    return {
        form: {
            **summary(plan.runs("icd10", LORA, form), store),
            "to_fp32": difference(plan.runs("icd10", LORA, form), reference, store),
            "bytes_per_token": bytes_per_token(form, width),
        }
        for form in FORMS
    }


def _width(spec: CutSpec) -> int:
    return int(json.loads((Path(spec.model) / "config.json").read_text())["hidden_size"])


def methods(plan: Plan, store: Store) -> dict[str, Any]:
    """Part ``methods``."""
    return {
        name: {
            **{str(m): summary(plan.runs(name, m), store) for m in (LORA, BOTH, SPF, FULL)},
            "both_to_lora": difference(plan.runs(name, BOTH), plan.runs(name, LORA), store),
        }
        for name in plan.sets
    }


def selectors(plan: Plan, store: Store) -> dict[str, Any]:
    """Part ``selectors``."""
    return {
        name: {
            select: {
                **summary(plan.runs(name, replace(SPF, select=select)), store),
                "to_l1_largest": difference(
                    plan.runs(name, replace(SPF, select=select)), plan.runs(name, SPF), store
                ),
            }
            for select in SELECTORS
        }
        for name in plan.selector_sets
    }


def ratio_methods(plan: Plan) -> list[Method]:
    """What part ``ratios`` compares."""
    return [*(Method(spf=share) for share in plan.shares), BOTH, LORA, FULL]


def ratios(plan: Plan, store: Store, steps: dict[str, Any]) -> dict[str, Any]:
    """Part ``ratios``: accuracy beside the figures of ``steps``."""
    return {
        str(method): {
            **steps[str(method)],
            "accuracy": summary(plan.runs("icd10", method), store),
        }
        for method in ratio_methods(plan)
    }


# --- output -------------------------------------------------------------------------------------


def mean_cell(found: dict[str, Any]) -> str:
    """``71.2 (70.1-72.0, n=3)``: mean, lowest and highest, number of seeds."""
    if not found["seeds"]:
        return "-"
    return f"{found['mean']:.1f} ({found['low']:.1f}-{found['high']:.1f}, n={found['seeds']})"


def gap_cell(found: dict[str, Any]) -> str:
    """``+0.4 ± 0.2``: difference in points and its standard error over seeds."""
    if not found["pairs"]:
        return "-"
    error = found["standard_error"]
    return f"{found['mean']:+.2f}" + ("" if error is None else f" ± {error:.2f}")


def ratio_cell(found: Sequence[float]) -> str:
    """``1.10 (1.05-1.16)``: median and quartiles."""
    middle, low, high = found
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def ratio_table(found: dict[str, Any]) -> Table:
    """Table of part ``ratios``."""
    columns = ["tuned", "accuracy %", "trainable", "of full", "step/LoRA", "processor/LoRA"]
    columns += ["step/full", "memory/LoRA", "memory/full", "extra RSS MB"]
    rows = [
        [
            name,
            mean_cell(f["accuracy"]),
            f["trainable"],
            f"{f['share_of_full']:.3f}",
            ratio_cell(f["step_to_lora"]),
            ratio_cell(f["processor_to_lora"]),
            ratio_cell(f["step_to_full"]),
            f"{f['memory_to_lora']:.2f}",
            f"{f['memory_to_full']:.3f}",
            "-" if f.get("extra_rss") is None else f"{f['extra_rss'] / 1e6:.0f}",
        ]
        for name, f in found.items()
    ]
    return table("ratios (icd10; memory: gradients and optimizer state)", columns, rows)


def method_table(found: dict[str, Any]) -> Table:
    """Table of part ``methods``."""
    names = [str(m) for m in (LORA, BOTH, SPF, FULL)]

    def cell(one: dict[str, Any]) -> str:
        return f"{mean_cell(one)} @{one['rate']}" if one["seeds"] else "-"

    rows = [
        [name, *(cell(f[m]) for m in names), gap_cell(f["both_to_lora"])]
        for name, f in found.items()
    ]
    return table("methods (accuracy % @learning rate)", ["set", *names, "both - lora"], rows)


def selector_table(found: dict[str, Any]) -> Table:
    """Table of part ``selectors``."""
    columns = ["selector"]
    for name in found:
        columns += [f"{name} %", "to l1-largest"]
    rows = []
    for select in SELECTORS:
        row = [select]
        for f in found.values():
            row += [mean_cell(f[select]), gap_cell(f[select]["to_l1_largest"])]
        rows.append(row)
    return table("selectors (SPF 25 %)", columns, rows)


def form_table(found: dict[str, Any]) -> Table:
    """Table of part ``forms``."""
    rows = [
        [form, f["bytes_per_token"], mean_cell(f), f.get("loss", "-"), gap_cell(f["to_fp32"])]
        for form, f in found.items()
    ]
    return table(
        "forms (icd10, LoRA)", ["form", "bytes/token", "accuracy %", "loss", "to fp32"], rows
    )


def report(result: dict[str, Any]) -> None:
    """Print the tables of the parts that were done."""
    console = Console(width=200 if not sys.stdout.isatty() else None)
    makers = {
        "ratios": ratio_table,
        "methods": method_table,
        "selectors": selector_table,
        "forms": form_table,
    }
    for part, maker in makers.items():
        if part in result:
            console.print(maker(result[part]), "")


def versions() -> dict[str, str]:
    """What the figures were made with."""
    import peft
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def make_plan(options: argparse.Namespace) -> Plan:
    """The runs that the options ask for."""
    if options.quick:
        options.rounds = 12
        return Plan(QUICK, ("icd10",), (1,), (0.25, 0.5), 3e-3, options.model, options.data)
    seeds = tuple(range(1, options.seeds + 1))
    return Plan(
        SIZES, tuple(options.sets), seeds, SHARES, options.rate, options.model, options.data
    )


def listed(known: Sequence[str]) -> Callable[[str], list[str]]:
    """An option's type: some of ``known``, with commas between."""

    def parse(text: str) -> list[str]:
        wrong = [name for name in text.split(",") if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]} is none of {', '.join(known)}")
        return text.split(",")

    return parse


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model", help="folder of the backbone")
    parser.add_argument("--data", default="demo/data", help="folder of the demo sets")
    parser.add_argument("--only", type=listed(PARTS), default=list(PARTS), help="parts")
    parser.add_argument("--sets", type=listed(list(SIZES)), default=list(SIZES), help="of methods")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each figure")
    parser.add_argument("--rate", type=float, help="learning rate of every run; default: tuned")
    parser.add_argument("--rounds", type=int, default=16, help="interleaved rounds of steps")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--fresh", action="store_true", help="forget finished runs")
    parser.add_argument("--tables", action="store_true", help="show what is finished; run nothing")
    parser.add_argument("--quick", action="store_true", help="small: within 4 minutes")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    return parser.parse_args()


def main() -> None:
    """Parse options, run, print."""
    options = parse_options()
    plan, store = make_plan(options), Store(options.fresh)
    order = [part for part in ("forms", "methods", "selectors", "ratios") if part in options.only]
    if not options.tables:
        finish([run for part in order for run in plan.part(part)], store, options.workers)
    result: dict[str, Any] = {}
    if "ratios" in order:
        compared = ratio_methods(plan)
        steps = measure_steps(compared, options.rounds, options.model)
        for method in () if options.quick else compared:
            steps[str(method)]["extra_rss"] = in_fresh_process(extra_rss, method, options.model)
        result["step_ratio_25"] = steps[str(SPF)]["step_to_lora"][0]
        result["memory_ratio_25"] = round(steps[str(SPF)]["memory_to_full"], 4)
        result["ratios"] = ratios(plan, store, steps)
    makers = {"methods": methods, "selectors": selectors, "forms": forms}
    result |= {part: makers[part](plan, store) for part in order if part in makers}
    result |= {
        "cut": CUT,
        "seeds": list(plan.seeds),
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "sizes": {name: asdict(size) for name, size in plan.sizes.items()},
        "versions": versions(),
    }
    report(result)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
