"""What a step costs an enclave in each precision, and how far its gradient is from float32's.

    python benchmarks/precision.py [--model demo/model] [--rounds 4] [--batch 8] [--length 64]

LoRA r=8 on q, k, v, o; causal language modelling on random tokens of which each row repeats a
short part. Ways take turns in one process, which is a masked step's accelerator, too, and makes its
pads. Processor seconds, medians; ``error`` is the relative error of a step's gradient against the
same weights (int8 where masked) in float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from output import table
from sealtune.accelerator.engine import Engine
from sealtune.job.sections import TuningSpec
from sealtune.job.spec import Job
from sealtune.model.compute import Compute
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.tasks import Task, task_of
from sealtune.model.texts import Batch, pad
from sealtune.offload.in_process import InProcess
from sealtune.offload.session import OffloadSession
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning

_WHERE = ("enclave", "masked")
_PRECISIONS = ("fp32", "bf16", "autocast")


def job_of(model: str) -> Job:
    """A job with nothing but a model."""
    return Job.model_validate(
        {
            "job": {"name": "precision"},
            "model": {"path": str(Path(model).resolve()), "task": "causal-lm"},
            "data": {"train": "-", "test": "-"},
            "sites": {"names": ["a"], "partition": "label"},
            "tuning": TuningSpec(rank=8),
        }
    )


class Way:
    """One model, computed in one way."""

    def __init__(self, job: Job, task: Task, where: str, precision: Any) -> None:
        compute = Compute(precision=precision)
        self._task = compute.task(task)
        base = load_model(job.model, None, dtype=compute.dtype)
        self.model = apply_tuning(base, job.tuning, job.model.task, 0)
        for name, parameter in self.model.named_parameters():
            if ".lora_B." in name:  # zero hides A's gradient
                torch.nn.init.normal_(
                    parameter, std=0.02, generator=torch.Generator().manual_seed(1)
                )
        if where == "masked":
            plan = make_plan(job, None)
            groups = [group.model_dump() for group in plan.groups]
            engine = InProcess(Engine(Path(plan.backbone.path), groups), plan.groups)
            session = OffloadSession(engine, plan, integrity_bits=40, owner="precision")
            session.install(self.model)

    def step(self, batch: Batch) -> float:
        """Processor seconds of one step's gradient, the accelerator's included."""
        self.model.train()
        for parameter in self.model.parameters():
            parameter.grad = None
        begun = time.process_time()
        self._task.loss(self.model, batch).backward()
        return time.process_time() - begun

    @property
    def gradient(self) -> Tensor:
        """Of all that is tuned, float64 [n]."""
        parts = [p.grad.double().flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--where", choices=("enclave", "masked"), nargs="+", default=_WHERE)
    for name, value in (("rounds", 4), ("batch", 8), ("length", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    job = job_of(options.model)
    task = task_of(job, (), load_tokenizer(job.model))
    draw = torch.Generator().manual_seed(0)
    part = torch.randint(100, 20_000, (options.batch, 16), generator=draw)
    rows = part.repeat(1, options.length // 16).tolist()
    batch = pad(rows, task.pad_id)
    ways = {
        (where, kind): Way(job, task, where, kind)
        for where in options.where
        for kind in _PRECISIONS
    }
    spent: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for number in range(options.rounds + 1):
        for name, way in ways.items():
            seconds = way.step(batch)
            if number:
                spent[name].append(seconds)
    exact = {where: ways[where, "fp32"].gradient for where in options.where}
    lines = []
    for (where, kind), seconds in spent.items():
        error = (ways[where, kind].gradient - exact[where]).norm() / exact[where].norm()
        plain = statistics.median(spent[where, "fp32"])
        middle = statistics.median(seconds)
        lines.append((where, kind, f"{middle:.2f}", f"{middle / plain:.2f}", f"{error:.1e}"))
    columns = ("where", "precision", "processor s", "of fp32", "gradient's error")
    Console().print(table("a step in each precision", columns, lines))


if __name__ == "__main__":
    main()
