"""``python -m sealtune.advise.measure SETTINGS.json``: seconds of a training step in each place.

It trains miniatures of a job's model for some five seconds, with the code that runs use, and prints
a JSON line. The ways take turns, so that what else the machine does meets all of them alike:

    cpu/fp32, cpu/bf16   everything in the enclave
    masked               an accelerator on this machine, pads made ahead
    inline               the same, each pad made while the accelerator works
    cuda/bf16            everything on a CUDA device, if there is one

A process of its own, with the environment that `sealtune run` gives an enclave.

Trust domain: operator; public structure only.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.server import Server
from sealtune.advise.miniature import write_miniature
from sealtune.job.plan import Backbone, SlicePlan
from sealtune.job.spec import Job, ModelSpec
from sealtune.methods.federated.in_place import InPlace
from sealtune.model.compute import Compute
from sealtune.model.rest import load_rest
from sealtune.model.tasks import make_task
from sealtune.model.texts import Batch
from sealtune.offload.session import OffloadSession
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning

Pieces = dict[str, float]
SECONDS = 5.0  # of training; loading comes on top
_VOCABULARY = 64  # of the miniature whose blocks are timed
_MIB = 1 << 20


class Way:
    """One miniature in one place, ready to train."""

    def __init__(self, job: Job, session: Any, plan: SlicePlan, compute: Compute, ids: Any) -> None:
        base = load_rest(job.model, None, plan, dtype=compute.dtype)
        model = compute.place(apply_tuning(base, job.tuning, job.model.task, job.job.seed))
        session.install(model)
        for name, parameter in model.named_parameters():  # B away from zero: all is alive
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.02 if "lora" in name else 0.1)
        task = compute.task(
            make_task("causal-lm", _NO_TOKENIZER, max_tokens=4096, template="{text}", labels=())
        )
        batch = Batch(ids, torch.full((len(ids),), ids.shape[1]), None)
        self.session, self._model, self._cuda = session, model, compute.device.type == "cuda"
        self._loss = lambda: task.loss(model, batch)

    def step(self) -> Pieces:
        """Forward, loss and backward; seconds, those of the session's pieces, and the processor's:
        an accelerator's are among them, since it is a thread of this process."""
        before = dict(self.session.seconds)
        cpu, start = time.process_time(), time.perf_counter()
        self._model.zero_grad(set_to_none=True)
        self._loss().backward()  # type: ignore[no-untyped-call]
        if self._cuda:
            torch.cuda.synchronize()
        step = time.perf_counter() - start
        pieces = {key: value - before[key] for key, value in self.session.seconds.items()}
        return {"step": step, "cpu": time.process_time() - cpu, **pieces}

    def ahead(self) -> Pieces:
        """A step whose pads are made first."""
        self.session.rest(wait=True)
        return self.step()


_NO_TOKENIZER = SimpleNamespace(pad_token_id=0)


@contextmanager
def accelerated(plan: SlicePlan, folder: Path, budget: int) -> Iterator[OffloadSession]:
    """A session with an accelerator in a thread, through a socket and memory that both share."""
    groups = [group.model_dump() for group in plan.groups]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    server = Server(Engine(Path(plan.backbone.path), groups, device=device), f"unix:{folder}/a")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with OffloadSession.connect(
        f"unix:{folder}/a", plan, integrity_bits=40, owner="advise", pad_budget=budget
    ) as session:
        try:
            yield session
        finally:
            server.close()


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Each way's seconds, for a miniature with ``blocks`` and one with an output matrix."""
    spec = ModelSpec.model_validate(settings["model"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SEALTUNE_CACHE"] = str(folder / "cache")
        body = write_miniature(spec, folder / "body", blocks=settings["blocks"], vocabulary=64)
        head = write_miniature(spec, folder / "head", blocks=1, vocabulary=settings["vocabulary"])
        return _take_turns(body, head, settings, folder)


def _take_turns(
    body: ModelSpec, head: ModelSpec, settings: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    rows, length = settings["rows"], settings["length"]
    ids = torch.randint(3, _VOCABULARY, (rows, length))
    jobs = {"body": _job(body, settings), "head": _job(head, settings)}
    plans = {name: make_plan(job, None) for name, job in jobs.items()}
    largest = max(sum(g.out_features) + g.in_features for g in plans["body"].groups)
    budget = 2 * len(plans["body"].groups) * largest * rows * length * 4 // _MIB + 1
    ways: dict[str, Callable[[], Pieces]] = {}
    devices = ["cpu/fp32", "cpu/bf16", *(["cuda/bf16"] if torch.cuda.is_available() else [])]
    for part, job in jobs.items():
        whole = plans[part].model_copy(update={"groups": (), "backbone": _NOTHING})
        for device in devices:
            where, _, precision = device.partition("/")
            compute = Compute.open(where, precision)  # type: ignore[arg-type]
            ways[f"{part}/{device}"] = Way(job, InPlace(), whole, compute, ids).step
    with accelerated(plans["body"], folder, budget) as session:
        precision = settings["precision"]
        compute = Compute.open("cpu", precision)
        masked = Way(jobs["body"], session, plans["body"], compute, ids)
        ways["body/inline"], ways["body/masked"] = masked.step, masked.ahead
        found = _rounds(ways, settings.get("seconds", SECONDS))
    return {**settings, "parts": found}


_NOTHING = Backbone(path="", tensors={})


def _rounds(ways: Mapping[str, Callable[[], Pieces]], seconds: float) -> dict[str, Pieces]:
    """Turn after turn until the time is up, two at least after one that warms up.

    The fastest step of each is what the machine does when it is left alone. Processor time, which
    others on the machine hardly change, is the median.
    """
    found: dict[str, list[Pieces]] = {name: [] for name in ways}
    until, number = time.perf_counter() + seconds, 0
    while number < 3 or time.perf_counter() < until:
        for name, way in ways.items():
            found[name].append(way())
        number += 1
    best = {name: min(steps[1:], key=lambda step: step["step"]) for name, steps in found.items()}
    for name, steps in found.items():
        best[name] = {**best[name], "cpu": median(step["cpu"] for step in steps[1:])}
    return {name: {k: round(v, 6) for k, v in step.items()} for name, step in best.items()}


def _job(model: ModelSpec, settings: Mapping[str, Any]) -> Job:
    return Job.model_validate(
        {
            "job": {"name": "advise", "seed": 1},
            "model": model.model_dump(),
            "data": {"train": "-", "test": "-"},
            "sites": {"names": ["one"], "partition": "label"},
            "tuning": settings["tuning"],
            "train": {"precision": settings["precision"]},
        }
    )


def main() -> None:
    """Measure and print."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps(measure(settings)))


if __name__ == "__main__":
    main()
