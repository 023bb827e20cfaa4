"""Split fine-tuning: what is sent, whether it learns the same, and what the enclave costs.

    python benchmarks/split.py                 # about ten minutes
    python benchmarks/split.py --quick --json  # within four

One job on real data, SmolLM2-135M cut behind block 24 of 30, three sites, in one process
(``in_process``), so that every sealed byte is counted where it would leave a machine. Then, in the
same process:

* uplink_ratio: sealed bytes that went up for all epochs, handshakes included, against tokens x
  hidden x bytes per element; beside it vanilla split learning, which sends activations up and
  gradients down in every epoch (counted, not run: activations in the same form, gradients bf16).
* loss_rel_err: losses of the split run against the same steps on the whole model, float32.
* server_step_ratio: a step of the server enclave (samples opened from the sealed store on disk, all
  checks) against plain PEFT on the same top blocks with activations at hand in memory; interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from in_process import Objects
from sealtune.data.site import load_sites
from sealtune.job.sections import (
    JobSpec,
    LoraSpec,
    SitesSpec,
    SpfSpec,
    SplitSpec,
    TrainSpec,
    TuningSpec,
)
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.methods.split.server import SplitServer
from sealtune.methods.split.top_trainer import EVERYBODY, TopTrainer
from sealtune.model.activations import bytes_per_token
from sealtune.model.batches import step_batches
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.samples import CutBatch, Samples
from sealtune.model.tasks import make_task
from sealtune.model.texts import join
from sealtune.model.training import RoundResult, local_round, make_optimizer
from sealtune.tuning.apply import apply_tuning

SITES = ("north", "south", "west")
CUT = 24
HIDDEN = 576
TARGETS = {"uplink_ratio": 1.02, "loss_rel_err": 1e-5, "server_step_ratio": 1.07}


def make_job(options: argparse.Namespace, folder: Path) -> Job:
    """A split job on the first rows of the data, every row once in each epoch."""
    for name, rows in (("train", options.rows), ("test", 60)):
        lines = (Path(options.data) / f"{name}.jsonl").read_text().splitlines()[:rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return Job(
        job=JobSpec(name="bench", method="split", seed=1, rounds=options.epochs),
        model=ModelSpec(path=str(Path(options.model).resolve())),
        data=DataSpec(
            train=folder / "train.jsonl", test=folder / "test.jsonl", max_tokens=options.length
        ),
        sites=SitesSpec(names=SITES, partition="dirichlet", alpha=5.0),
        tuning=TuningSpec(lora=LoraSpec(rank=8), spf=SpfSpec()),
        train=TrainSpec(steps_per_round="epoch", batch_size=16, learning_rate=1e-3),
        split=SplitSpec(cut=CUT, activations=options.form),
    )


class _Recorded(TopTrainer):
    """Keeps every step's loss with all its digits; events carry five."""

    losses: tuple[float, ...] = ()

    def train(self, round_: int) -> RoundResult:
        """As ever."""
        result = super().train(round_)
        self.losses += result.losses
        return result


class Run(Objects):
    """The programs of one job, and what they sent."""

    def __init__(self, job: Job, folder: Path) -> None:
        super().__init__(job, folder)
        enclave = SplitServer(self.admitted, self.emit)
        self.store = enclave._store
        self.trainer = _Recorded(self.admitted, self.store, self.emit)
        enclave._trainer = self.trainer
        self._server = self.server(enclave)

    def to_the_end(self, say: Any) -> None:
        """Carry every message."""

        def advance(_: int) -> None:
            rounds = len(self.of("round"))
            say(f"{len(self.of('upload'))} chunks up, {max(0, rounds - 1)} epochs done")

        self.carry(self._server, advance=advance)


def traffic(run: Run, job: Job) -> dict[str, Any]:
    """Bytes of this run, of its activations alone, and of vanilla split learning."""
    assert job.split is not None
    form = job.split.activations
    tokens = sum(event["tokens"] for event in run.of("uploaded"))
    train = sum(s.tokens for site in SITES for s in run.store.samples(site, "train"))
    test = tokens - train
    each = bytes_per_token(form, HIDDEN)
    element = {"fp32": 4, "bf16": 2, "int8": 1}[form]
    epochs = job.job.rounds
    rounds = [e for e in run.of("round") if e["round"] > 0]
    gradient = sum(s["bytes_down"] for e in rounds for s in e["sites"].values())
    return {
        "uplink_ratio": round(run.up / (tokens * HIDDEN * element), 4),
        "downlink_gradient_bytes": gradient,
        "uplink_bytes": run.up,
        "downlink_bytes": run.down,
        "tokens": tokens,
        "epochs": epochs,
        "vanilla_uplink_bytes": (train * epochs + test * (epochs + 1)) * each,
        "vanilla_downlink_bytes": train * epochs * 2 * HIDDEN,  # gradients as bfloat16
    }


def unsplit_losses(run: Run, job: Job, steps: int) -> list[float]:
    """The same steps on the whole model."""
    labels = run.admitted.labels
    task = _task(run, job)
    whole = apply_tuning(
        load_model(job.model, len(labels)), job.tuning, job.model.task, job.job.seed,
        first_block=CUT,
    )  # fmt: skip
    sites = load_sites(job, labels)
    everything = join([task.encode(sites[site].train) for site in SITES])
    train = job.train.model_copy(update={"steps_per_round": steps})
    result = local_round(
        whole, task, everything, train, seed=job.job.seed, round=1, site=EVERYBODY,
        optimizer=make_optimizer(whole, train),
    )  # fmt: skip
    return list(result.losses)


def _task(run: Run, job: Job) -> Any:
    return make_task(
        job.model.task, load_tokenizer(job.model), max_tokens=job.data.max_tokens,
        template=job.data.template, labels=run.admitted.labels,
    )  # fmt: skip


class Plain:
    """Plain PEFT on the same top blocks: no enclave, no store, batches at hand in memory."""

    def __init__(self, run: Run, job: Job) -> None:
        top = load_part(job.model, len(run.admitted.labels), CUT, "top")
        self.entry = CutEntry(top, CUT)
        self._task = _task(run, job)
        self._model = apply_tuning(
            top, job.tuning, job.model.task, job.job.seed, first_block=CUT
        ).train()
        self._optimizer = make_optimizer(self._model, job.train)
        self.batches: Sequence[CutBatch] = ()

    def steps(self) -> None:
        """One step for each batch."""
        for batch in self.batches:
            loss: Tensor = self._task.loss(self._model, batch)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()


def step_ratio(run: Run, job: Job, rounds: int) -> dict[str, Any]:
    """Seconds of the enclave's training against plain PEFT on the same batches, interleaved."""
    samples = [s for site in SITES for s in run.store.samples(site, "train")]
    steps = 4
    train = job.train.model_copy(update={"steps_per_round": steps})
    top = load_part(job.model, len(run.admitted.labels), CUT, "top")
    task = _task(run, job)
    data = Samples(samples, run.store.read, CutEntry(top, CUT), task.pad_id)
    enclave = apply_tuning(top, job.tuning, job.model.task, job.job.seed, first_block=CUT)
    optimizer = make_optimizer(enclave, train)
    seconds: dict[str, list[float]] = {"enclave": [], "plain": []}
    for number in range(1, rounds + 2):  # the first warms up and is dropped
        chosen = step_batches(
            data.lengths, 16, (number - 1) * steps, steps, job.job.seed, EVERYBODY
        )
        batches = [data.batch(rows) for rows in chosen]
        if number == 1:
            plain = Plain(run, job)
        plain.batches = [replace(batch, entry=plain.entry) for batch in batches]
        begun = time.perf_counter()
        local_round(
            enclave, task, data, train, seed=job.job.seed, round=number, site=EVERYBODY,
            optimizer=optimizer,
        )  # fmt: skip
        between = time.perf_counter()
        plain.steps()
        seconds["enclave"].append(between - begun)
        seconds["plain"].append(time.perf_counter() - between)
    ratios = [a / b for a, b in zip(seconds["enclave"][1:], seconds["plain"][1:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "server_step_ratio": round(middle, 3),
        "spread": {"server_step": [round(low, 3), round(high, 3)]},
        "step_seconds": {k: round(statistics.median(v[1:]) / steps, 3) for k, v in seconds.items()},
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything."""

    def say(words: str) -> None:
        print(f"  {words}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="split-") as name:
        job = make_job(options, Path(name))
        say("loading the sites' blocks")
        run = Run(job, Path(name) / "run")
        run.to_the_end(say)
        result = traffic(run, job)
        if options.form == "fp32":
            count = min(len(run.trainer.losses), options.compared)
            say(f"the same {count} steps on the whole model")
            expected = unsplit_losses(run, job, count)
            pairs = zip(run.trainer.losses[:count], expected, strict=True)
            result["loss_rel_err"] = max(abs(a - b) / b for a, b in pairs)
        say("steps of the enclave against plain PEFT, interleaved")
        result |= step_ratio(run, job, options.rounds)
    return {
        **result,
        "form": options.form,
        "rows": options.rows,
        "seed": job.job.seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Parse options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model", help="folder of the model")
    parser.add_argument("--data", default="demo/data/icd10", help="folder with train/test.jsonl")
    parser.add_argument("--form", choices=("fp32", "bf16", "int8"), default="fp32")
    parser.add_argument("--rows", type=int, default=1200, help="training rows of all sites")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text at most")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--compared", type=int, default=20, help="steps compared with unsplit")
    parser.add_argument("--rounds", type=int, default=12, help="interleaved rounds of 4 steps")
    parser.add_argument("--quick", action="store_true", help="240 rows, 2 epochs: within 4 minutes")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.epochs, options.compared, options.rounds = 240, 2, 8, 6
    result = measure(options)
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        target = f"   (at most {TARGETS[key]})" if key in TARGETS else ""
        print(f"{key:24} {value}{target}")


if __name__ == "__main__":
    main()
