"""How good the estimates of ``sealtune advise`` are: each against a measured piece of a real run.

    python benchmarks/advise.py                      # six shapes more; needs demo/ (make demo)
    python benchmarks/advise.py --quick --json       # within 4 minutes on 2 cores
    python benchmarks/advise.py --run runs/split     # also against a finished split run

Every piece runs in a process of its own, with the code that the enclaves and owners run:

    bottom      a data owner's cut activations (``CutMaker``), split jobs
    top         a split job's training in the server enclave, with its export (``TopTrainer``)
    plain       plain PEFT
    masked      a client enclave with its accelerator, pads and checks, with its release
    aggregator  the running mean of a federated job

Times are held against a probe of the machine made before and after the piece in the same process.
``cpu`` counts seconds of processor time, of all threads and of both processes: other jobs on the
machine hardly change it. ``wall`` is the clock's. Medians of the steps after the first.

Keys of the JSON line: ``items`` (each with ``estimate``, ``measured``, ``ratio`` = estimate /
measured), one ``ratio`` for each item by its name, ``worst_ratio`` (the ratio farthest from 1, wall
times left out), ``worst_memory_ratio``, ``worst_bytes_ratio``, ``worst_cpu_ratio``,
``worst_wall_ratio``, ``load`` (processes that wanted a core, on average).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

# as `sealtune run` sets it: enclave and accelerator take turns on the same cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

QUICK = [
    {"kind": "aggregator"},
    {"kind": "bottom", "cut": 6, "rows": 16, "length": 32, "form": "bf16"},
    {"kind": "bottom", "cut": 20, "rows": 8, "length": 64, "form": "int8"},
    {"kind": "top", "cut": 24, "rows": 16, "length": 32},
    {"kind": "top", "cut": 16, "rows": 8, "length": 48},
    {"kind": "plain", "rows": 16, "length": 32},
    {"kind": "plain", "rows": 4, "length": 64},
    {"kind": "masked", "rows": 16, "length": 32},
    {"kind": "masked", "rows": 4, "length": 64},
]
MORE = [
    {"kind": "bottom", "cut": 28, "rows": 32, "length": 32, "form": "fp32"},
    {"kind": "top", "cut": 8, "rows": 16, "length": 32},
    {"kind": "top", "cut": 24, "rows": 32, "length": 64},
    {"kind": "top", "cut": 20, "rows": 16, "length": 32, "checkpointing": True},
    {"kind": "plain", "rows": 8, "length": 64, "task": "causal-lm"},
    {"kind": "masked", "rows": 16, "length": 48},
]
STEPS = 4
LABELS = tuple(f"class {i}" for i in range(21))


@dataclass(frozen=True)
class Item:
    """One figure."""

    name: str
    kind: str  # memory, bytes, cpu, wall
    estimate: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.estimate / self.measured


# --- pieces: each in a process of its own ---------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A text that is cut to exactly the wanted number of tokens."""

    text: str
    label: int
    row: int = 0


class Stopwatch:
    """Wall and processor time between calls."""

    def __init__(self, others: Callable[[], float] = lambda: 0.0) -> None:
        self._others = others
        self.cpu: list[float] = []
        self.wall: list[float] = []
        self.start()

    def start(self) -> None:
        self._begun = self._now()

    def lap(self, *_ignored: Any, **__: Any) -> None:
        cpu, wall = self._now()
        self.cpu.append(cpu - self._begun[0])
        self.wall.append(wall - self._begun[1])
        self.start()

    def _now(self) -> tuple[float, float]:
        return time.process_time() + self._others(), time.perf_counter()


def less(whole: list[float], part: list[float]) -> list[float]:
    """What of each step but the first is left without a part."""
    return [a - b for a, b in list(zip(whole, part, strict=False))[1:]]


class TimedPads:
    """Stands between a session and its pads, and measures what making them takes in each step."""

    def __init__(self, session: Any) -> None:
        self.cpu, self.wall = [0.0], [0.0]
        self._take = session._link.pads.take
        session._link.pads.take = self.take

    def take(self, group: str, rows: int, *, backward: bool) -> Any:
        """A pad that says how long its product took."""
        pad = self._take(group, rows, backward=backward)

        def product() -> Any:
            cpu, wall = time.process_time(), time.perf_counter()
            made = pad.product()
            self.cpu[-1] += time.process_time() - cpu
            self.wall[-1] += time.perf_counter() - wall
            return made

        return replace(pad, product=product)

    def lap(self) -> None:
        """The next step begins."""
        self.cpu.append(0.0)
        self.wall.append(0.0)


def make_job(piece: dict[str, Any], options: argparse.Namespace) -> Any:
    """A job of the shape that is measured."""
    from sealtune.job.spec import Job

    rows = int(piece.get("rows", 8))
    value: dict[str, Any] = {
        "job": {"name": "advise", "seed": 1},
        "model": {"path": options.model, "task": piece.get("task", "classification")},
        "data": {"train": "-", "test": "-", "max_tokens": int(piece.get("length", 32))},
        "sites": {"names": ["one"], "partition": "label"},
        "train": {"steps_per_round": STEPS, "batch_size": rows, "eval_batch_size": rows},
    }
    if "cut" in piece:
        value["job"]["method"] = "split"
        value["split"] = {"cut": piece["cut"], "activations": piece.get("form", "bf16")}
        value["train"]["checkpointing"] = piece.get("checkpointing", False)
    return Job.model_validate(value)


def probe_both(tokens: int) -> dict[str, dict[str, float]]:
    """This machine's speeds now, by processor time and by the clock."""
    from sealtune.advise.equipment import probe

    cpu, wall = time.process_time(), time.perf_counter()
    found = vars(probe(576, 1296, tokens, clock=time.process_time, best=False))
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return {"cpu": found, "wall": {key: value * share for key, value in found.items()}}


def measure(piece: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run a piece and return its figures with the speeds of the machine around it."""
    import torch

    import sealtune.enclave.client
    import sealtune.methods.split.top_trainer  # noqa: F401

    kind = piece["kind"]
    if kind == "aggregator":
        raise SystemExit("the aggregator loads no torch")
    torch.manual_seed(0)
    job = make_job(piece, options)
    labels = LABELS if job.model.task == "classification" else ()
    work = {"bottom": _bottom, "top": _top, "plain": _plain, "masked": _masked}[kind]
    tokens = piece["rows"] * piece["length"]
    before = probe_both(tokens)
    found = work(piece, job, labels, options)
    after = probe_both(tokens)
    for clock, first in before.items():
        found[f"speeds_{clock}"] = {
            key: 2 / (1 / value + 1 / after[clock][key]) for key, value in first.items()
        }
    return found


def admitted_of(job: Any, labels: tuple[str, ...], cut: int | None) -> Any:
    """As much of an admitted job as the parties' code looks at."""
    return SimpleNamespace(
        job=job,
        labels=labels,
        plan=SimpleNamespace(cut=cut),
        cut=cut,
        device="cpu",
        split=job.split,
        manifest=SimpleNamespace(model=SimpleNamespace(name="model"), rounds=1),
        model_digest="0" * 64,
        job_id="0" * 96,
    )


def rows_of(options: argparse.Namespace, count: int, length: int) -> list[Row]:
    """Texts of at least ``length`` tokens."""
    lines = Path(options.text).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[: count + length]]
    return [Row(" ".join(texts[i : i + length]), i % len(LABELS)) for i in range(count)]


def _task(job: Any, labels: tuple[str, ...]) -> Any:
    from sealtune.model.load import load_tokenizer
    from sealtune.model.tasks import task_of

    return task_of(job, labels, load_tokenizer(job.model))


def _bottom(
    piece: dict[str, Any], job: Any, labels: tuple[str, ...], options: argparse.Namespace
) -> dict[str, Any]:
    from sealtune.memory import peak_mib
    from sealtune.owner.bottom_site import CutMaker

    texts = _task(job, labels).encode(rows_of(options, piece["rows"] * 2, piece["length"]))
    maker = CutMaker(admitted_of(job, labels, piece["cut"]), texts.pad_id)
    span = range(len(texts))
    maker.chunk("train", texts, span)
    watch = Stopwatch()
    for _ in range(STEPS):
        chunk = maker.chunk("train", texts, span)
        size = len(chunk.body())
        watch.lap()
    return {
        "memory": peak_mib(),
        "bytes": size,
        "forward_cpu": median(watch.cpu),
        "forward_wall": median(watch.wall),
    }


def _top(
    piece: dict[str, Any], job: Any, labels: tuple[str, ...], options: argparse.Namespace
) -> dict[str, Any]:
    import torch

    from sealtune.job.training_events import Step
    from sealtune.memory import peak_mib
    from sealtune.methods.split.top_trainer import TopTrainer
    from sealtune.model.load import load_config
    from sealtune.model.samples import Contents, Sample

    del options
    count, length = piece["rows"] * 4, piece["length"]
    samples = [Sample("one", i, length, i % len(LABELS)) for i in range(count)]
    width = int(load_config(job.model).hidden_size)
    contents = Contents(torch.randn(length, width), None)
    store = SimpleNamespace(
        samples=lambda _site, part: samples if part == "train" else samples[: piece["rows"]],
        read=lambda _sample: contents,
    )
    watch = Stopwatch()
    trainer = TopTrainer(
        admitted_of(job, labels, piece["cut"]),
        store,  # type: ignore[arg-type]
        lambda event: watch.lap() if isinstance(event, Step) else None,
    )
    trainer.begin(["one"])
    watch.start()
    trainer.train(1)
    trainer.export()
    return {
        "memory": peak_mib(),
        "step_cpu": median(watch.cpu[1:]),
        "step_wall": median(watch.wall[1:]),
    }


def _plain(
    piece: dict[str, Any], job: Any, labels: tuple[str, ...], options: argparse.Namespace
) -> dict[str, Any]:
    from sealtune.memory import peak_mib
    from sealtune.model.load import load_model
    from sealtune.model.training import local_round
    from sealtune.tuning.apply import apply_tuning

    task = _task(job, labels)
    model = load_model(job.model, len(labels) or None)
    model = apply_tuning(model, job.tuning, job.model.task, job.job.seed)
    texts = task.encode(rows_of(options, piece["rows"] * 2, piece["length"]))
    watch = Stopwatch()
    local_round(
        model, task, texts, job.train, seed=1, round=1, site="one", on_step=watch.lap,
    )  # fmt: skip
    return {
        "memory": peak_mib(),
        "step_cpu": median(watch.cpu[1:]),
        "step_wall": median(watch.wall[1:]),
    }


class Counted:
    """An accelerator whose traffic is counted."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.bytes = 0

    def call(self, group: str, rows: int, *, backward: bool) -> Any:
        call = self._inner.call(group, rows, backward=backward)
        take = call.result

        def result() -> Any:
            taken = take()
            self.bytes += 4 * (call.codes.numel() + taken.numel())
            return taken

        call.result = result
        return call

    def close(self) -> None:
        self._inner.close()


def _masked(
    piece: dict[str, Any], job: Any, labels: tuple[str, ...], options: argparse.Namespace
) -> dict[str, Any]:
    import psutil

    from sealtune.job.plan import SlicePlan
    from sealtune.memory import peak_mib
    from sealtune.model.rest import load_rest
    from sealtune.model.training import local_round
    from sealtune.offload.remote import RemoteAccelerator
    from sealtune.offload.session import OffloadSession
    from sealtune.tuning.adapter import Fingerprint
    from sealtune.tuning.apply import apply_tuning
    from sealtune.tuning.folder import check_export, save_adapter

    plan = SlicePlan.model_validate_json(Path(piece["plan"]).read_bytes())
    outside = psutil.Process(int(piece["accelerator"]))

    def others() -> float:
        spent = outside.cpu_times()
        return float(spent.user + spent.system)

    task = _task(job, labels)
    texts = task.encode(rows_of(options, piece["rows"] * 2, piece["length"]))
    counted = Counted(RemoteAccelerator.connect(piece["address"], plan.groups, patience=120.0))
    with OffloadSession(counted, plan, integrity_bits=40, owner="advise") as session:
        model = load_rest(job.model, len(labels) or None, plan)
        model = apply_tuning(model, job.tuning, job.model.task, job.job.seed)
        session.install(model)
        pads = TimedPads(session)
        whole = Stopwatch(others)

        def step(*_ignored: Any, **__: Any) -> None:
            whole.lap()
            pads.lap()
            nonlocal moved
            moved, counted.bytes = counted.bytes, 0

        moved = 0
        local_round(model, task, texts, job.train, seed=1, round=1, site="one", on_step=step)
        with tempfile.TemporaryDirectory() as name:
            fingerprint = Fingerprint(
                tuning=("lora",), base_model=job.model.path, base_model_digest="0" * 64,
                job_id="0" * 96,
                task=job.model.task, labels=labels, template=job.data.template,
                max_tokens=job.data.max_tokens, seed=1, rounds=1, versions={},
            )  # fmt: skip
            save_adapter(Path(name) / "adapter", model, fingerprint)
            batch = texts.batch(range(4))
            try:
                check_export(Path(name) / "adapter", model.eval(), batch, elsewhere=plan.quantised)
            except Exception as error:  # an adapter of four steps; only its memory counts here
                print(f"check_export: {error}", file=sys.stderr)
    return {
        "memory": peak_mib(),
        "bytes": moved,
        "online_cpu": median(less(whole.cpu, pads.cpu)),
        "online_wall": median(less(whole.wall, pads.wall)),
        "pads_cpu": median(pads.cpu[1:STEPS]),
        "pads_wall": median(pads.wall[1:STEPS]),
    }


AGGREGATOR = """
import json, sys
from pathlib import Path
import numpy as np
import sealtune.enclave.aggregator
from sealtune.methods.federated.adapter import AdapterReader, write_adapter
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.rules.fedavg import FedAvg
from sealtune.methods.federated.update import read_update
from sealtune.memory import peak_mib
shapes = {k: tuple(v) for k, v in json.loads(sys.argv[1]).items()}
adapter = write_adapter({k: np.ones(v, dtype=np.float32) for k, v in shapes.items()})
reader = AdapterReader(adapter, shapes)
before = reader.read(adapter)
mean = FedAvg(RoundContext(shapes, before, None, {"north": 10}, 1.0, Path()))
for _ in range(3):
    answer = reader.read(bytes(bytearray(adapter)))
    mean.add("north", read_update(answer, before, dict.fromkeys(shapes, 1.0)), 10)
write_adapter(mean.result())
print(peak_mib())
"""


def aggregator_memory(trainable: dict[str, tuple[int, ...]]) -> float:
    """MiB of the aggregator's process."""
    words = [sys.executable, "-c", AGGREGATOR, json.dumps(trainable)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


# --- estimates ------------------------------------------------------------------------------------


class Estimates:
    """What the cost model says of each piece."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._shapes: dict[str, Any] = {}

    def shape(self, piece: dict[str, Any]) -> Any:
        from sealtune.advise.shape import read_shape

        job = make_job({k: v for k, v in piece.items() if k != "cut"}, self._options)
        task = job.model.task
        if task not in self._shapes:
            classes = len(LABELS) if task == "classification" else None
            self._shapes[task] = read_shape(job, classes)
        return self._shapes[task]

    def items(self, piece: dict[str, Any], found: dict[str, Any]) -> Iterator[Item]:
        from sealtune.advise import costs
        from sealtune.advise.enclave_memory import enclave_parts
        from sealtune.advise.equipment import Speeds
        from sealtune.model.activations import bytes_per_token

        shape, kind = self.shape(piece), piece["kind"]
        batch = costs.Batch(piece["rows"] * piece["length"], piece["length"])
        cut, name = piece.get("cut", 0), title(piece)
        memory: float
        works: dict[str, Any]
        sent = 0.0
        if kind == "bottom":
            sent = 2 * batch.tokens * bytes_per_token(piece["form"], shape.width)
            sent += 2 * piece["rows"] * 8
            memory = costs.bottom_memory(shape, cut, batch.tokens, sent)
            ahead = costs.forward_work(shape, batch, 0, cut, head=False)
            works = {"forward": ahead * 2}
        elif kind == "top":
            again = piece.get("checkpointing", False)
            memory = costs.top_memory(shape, cut, batch, checkpointing=again)
            works = {"step": costs.step_work(shape, batch, cut, checkpointing=again)}
        elif kind == "plain":
            memory = costs.plain_memory(shape, batch)
            works = {"step": costs.step_work(shape, batch)}
        else:
            step = costs.masked_step(shape, batch, 0, backward=True)
            sent = step.moved
            memory = sum(enclave_parts(shape, batch, make_job(piece, self._options)).values())
            works = {"online": step.enclave + step.accelerator, "pads": step.pads}
        yield Item(f"{name} memory MiB", "memory", memory / costs.MIB, found["memory"])
        if sent:
            yield Item(f"{name} bytes", "bytes", sent, found["bytes"])
        for key, work in works.items():
            for clock in ("cpu", "wall"):
                seconds = Speeds(**found[f"speeds_{clock}"]).seconds(work)
                yield Item(f"{name} {key} {clock} s", clock, seconds, found[f"{key}_{clock}"])


def title(piece: dict[str, Any]) -> str:
    """A piece in a few words."""
    words = [piece["kind"]]
    words += [f"cut {piece['cut']}"] if "cut" in piece else []
    words += [f"{piece['rows']}x{piece['length']}"] if "rows" in piece else []
    words += [piece[key] for key in ("form", "task") if key in piece]
    return " ".join(words + (["checkpointing"] if piece.get("checkpointing") else []))


def against_run(folder: Path) -> Iterator[Item]:
    """A finished split run: memory of each role, and bytes."""
    from sealtune.advise.counts import count_data
    from sealtune.advise.equipment import take_stock
    from sealtune.advise.estimate import estimate
    from sealtune.advise.shape import read_shape
    from sealtune.data.site import discover_labels
    from sealtune.job.load import load_job

    job = load_job(folder / "job.toml")
    labels = discover_labels(job)
    shape = read_shape(job, len(labels) if job.model.task == "classification" else None)
    equipment = take_stock(job.equipment, shape.width, shape.width, probing=False)
    own = next(o for o in estimate(job, shape, count_data(job, labels), equipment) if o.own)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    peaks = {e["role"]: e["peak_mib"] for e in events if e["event"] == "memory"}
    sites = max(value for role, value in peaks.items() if role.startswith("client:"))
    yield Item("run server memory MiB", "memory", own.memory_mib["server_enclave"], peaks["server"])
    yield Item("run site memory MiB", "memory", own.memory_mib["owner_machine"], sites)
    rounds = [e for e in events if e["event"] in ("round", "final")]
    sent = dict.fromkeys(("bytes_up", "bytes_down"), 0)
    for event in rounds:
        for site in event["sites"].values():
            for key in sent:
                sent[key] += site[key]
    yield Item("run uplink bytes", "bytes", own.bytes["uplink"], sent["bytes_up"])
    yield Item("run downlink bytes", "bytes", own.bytes["downlink"], sent["bytes_down"])


# --- the whole ------------------------------------------------------------------------------------


def child(piece: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run a piece in a process of its own, with the settings that ``sealtune run`` gives it."""
    from sealtune.launch.threads import cores, thread_settings

    words = [sys.executable, __file__, "--piece", json.dumps(piece)]
    words += ["--model", options.model, "--text", options.text]
    environment = os.environ | thread_settings("client", 1, cores())
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{title(piece)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def all_items(options: argparse.Namespace) -> Iterator[Item]:
    """Measure piece after piece."""
    from offload_driver import Stage
    from sealtune.advise import costs
    from sealtune.plan.masked import make_plan

    estimates = Estimates(options)
    plan = make_plan(make_job({}, options), len(LABELS))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "plan.json"
        path.write_text(plan.model_dump_json())
        quick = json.loads(options.pieces) if options.pieces else QUICK
        for piece in [*quick, *([] if options.quick else MORE)]:
            if piece["kind"] == "aggregator":
                size = estimates.shape({}).trainable()
                yield Item(
                    "aggregator memory MiB",
                    "memory",
                    costs.aggregator_memory(size) / costs.MIB,
                    aggregator_memory(plan.trainable),
                )
            elif piece["kind"] == "masked":
                with Stage(Path(name)) as stage:
                    address = stage.accelerator(plan.model_dump(mode="json"))
                    pid = stage.processes["accelerator"].child.pid
                    extra = {"plan": str(path), "address": address, "accelerator": pid}
                    found = child({**piece, **extra}, options)
                (Path(name) / "a.sock").unlink(missing_ok=True)
                yield from estimates.items(piece, found)
            else:
                yield from estimates.items(piece, child(piece, options))
    if options.run:
        yield from against_run(Path(options.run))


def worst(items: list[Item], *kinds: str) -> float:
    """The ratio farthest from 1, to either side."""
    ratios = [item.ratio for item in items if item.kind in kinds]
    return round(max(ratios, key=lambda r: max(r, 1 / r)), 3)


def summary(items: list[Item], load: float) -> dict[str, Any]:
    """What is printed."""
    return {
        "worst_ratio": worst(items, "memory", "bytes", "cpu"),
        **{f"worst_{kind}_ratio": worst(items, kind) for kind in ("memory", "bytes", "cpu")},
        "worst_wall_ratio": worst(items, "wall"),
        "load": round(load, 1),
        "cores": len(os.sched_getaffinity(0)),
        **{item.name.replace(" ", "_"): round(item.ratio, 3) for item in items},
        "items": [
            {
                "name": item.name,
                "estimate": round(item.estimate, 3),
                "measured": round(item.measured, 3),
                "ratio": round(item.ratio, 3),
            }
            for item in items
        ],
    }


def main() -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model", help="folder of the backbone")
    parser.add_argument("--text", default="demo/data/icd10/train.jsonl", help="jsonl with 'text'")
    parser.add_argument("--run", help="folder of a finished split run, to compare with as well")
    parser.add_argument("--quick", action="store_true", help="within 4 minutes")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    parser.add_argument("--pieces", help="JSON list of pieces instead of the first ones")
    parser.add_argument("--piece", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.piece:
        print(json.dumps(measure(json.loads(options.piece), options)))
        return
    items = []
    loads = [os.getloadavg()[0]]
    for item in all_items(options):
        items.append(item)
        loads.append(os.getloadavg()[0])
        print(
            f"{item.name:44} {item.estimate:14.3f} {item.measured:14.3f} {item.ratio:7.3f}",
            flush=True,
        )
    result = summary(items, sum(loads) / len(loads))
    if options.json:
        print(json.dumps(result))
        return
    for key in ("worst_ratio", "worst_memory_ratio", "worst_bytes_ratio", "worst_cpu_ratio"):
        print(f"{key:44} {result[key]}")
    print(f"{'worst_wall_ratio':44} {result['worst_wall_ratio']} (load {result['load']})")


if __name__ == "__main__":
    main()
