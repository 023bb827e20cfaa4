"""Fifty steps of P-tuning v2 and of LoRA: masked, against the same int8 weights in the plain.

    python benchmarks/tuning_masked.py                  # about three minutes; needs demo/
    python benchmarks/tuning_masked.py --quick --json   # ten steps

SmolLM2-135M cut to 4 blocks classifies short diagnoses, padded, in batches of 4. Both models of a
pair begin alike, see the same batches and take their own steps. The accelerator is in the same
process: masks, codes and checks are those of a run.

Keys of the JSON line: ``masked_minus_plain_ptuning`` and ``masked_minus_plain_lora`` = the largest
difference of two losses of a step, in nats; ``first`` and ``last`` = the plain model's losses.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from demo_rows import first_blocks
from sealtune.accelerator.engine import Engine
from sealtune.job.sections import JobSpec, LoraSpec, PtuningSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.tasks import task_of
from sealtune.model.training import local_round
from sealtune.offload.in_process import InProcess
from sealtune.offload.session import OffloadSession
from sealtune.offload.unmasked import use_int8_weights
from sealtune.plan.masked import make_plan
from sealtune.tuning.apply import apply_tuning

STEPS, BATCH, BLOCKS, TOKENS, RATE = 50, 4, 4, 16, 1e-3
TUNERS: Mapping[str, TuningSpec] = {
    "ptuning": TuningSpec(ptuning=PtuningSpec(virtual_tokens=16)),
    "lora": TuningSpec(lora=LoraSpec(rank=8)),
}


@dataclass(frozen=True)
class Pair:
    """The losses of both models, in nats, step by step."""

    masked: tuple[float, ...]
    plain: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The largest of a step."""
        return max(abs(a - b) for a, b in zip(self.masked, self.plain, strict=True))


@dataclass(frozen=True)
class _Text:
    text: str
    label: int | None = None
    row: int = 0


def train_both(
    model: Path, text: Path, tuning: TuningSpec, steps: int, on_step: Callable[[], None]
) -> Pair:
    """Train a masked model and a plain one of the same int8 weights.

    Args:
        model: folder of a decoder.
        text: JSON lines with ``text`` and ``label``.
        tuning: what is trained.
        steps: of each.
        on_step: called after each step of either.
    """
    job = Job(
        job=JobSpec(name="masked", seed=1),
        model=ModelSpec(path=str(model), task="classification"),
        data=DataSpec(train=text, test=text, max_tokens=TOKENS),
        sites=SitesSpec(names=("one",), partition="label"),
        tuning=tuning,
        train=TrainSpec(steps_per_round=steps, batch_size=BATCH, learning_rate=RATE),
    )
    rows = [json.loads(line) for line in text.read_text(encoding="utf-8").splitlines()]
    labels = sorted({row["label"] for row in rows})
    task = task_of(job, labels, load_tokenizer(job.model))
    step = len(rows) // (steps * BATCH)  # spread over the file, which may be sorted
    texts = task.encode([_Text(r["text"], labels.index(r["label"])) for r in rows[::step]])
    plan = make_plan(job, len(labels))

    def losses(change: Callable[[Any], None]) -> tuple[float, ...]:
        base = load_model(job.model, len(labels))
        tuned = apply_tuning(base, tuning, job.model.task, job.job.seed)
        change(tuned)
        return local_round(
            tuned, task, texts, job.train, seed=1, round=1, site="one", on_step=lambda _: on_step()
        ).losses

    engine = Engine(Path(plan.backbone.path), [group.model_dump() for group in plan.groups])
    with OffloadSession(
        InProcess(engine, plan.groups), plan, integrity_bits=40, owner="benchmark"
    ) as session:
        masked = losses(session.install)
    return Pair(masked, losses(lambda tuned: use_int8_weights(tuned, plan)))


def measure(model: Path, text: Path, steps: int = STEPS) -> dict[str, Pair]:
    """Tuner -> both models' losses, with a progress bar on stderr.

    Args:
        model: folder of a decoder, cut to a few blocks.
        text: JSON lines with ``text`` and ``label``.
        steps: of each model.
    """
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        found = {}
        for name, tuning in TUNERS.items():
            bar = progress.add_task(f"{name}, masked and plain", total=2 * steps)
            found[name] = train_both(
                model, text, tuning, steps, lambda bar=bar: progress.advance(bar)
            )
    return found


def results(pairs: Mapping[str, Pair]) -> dict[str, Any]:
    """The JSON line's keys."""
    lines: dict[str, Any] = {f"masked_minus_plain_{n}": p.difference for n, p in pairs.items()}
    return lines | {
        "first": {name: pair.plain[0] for name, pair in pairs.items()},
        "last": {name: pair.plain[-1] for name, pair in pairs.items()},
    }


def table(pairs: Mapping[str, Pair]) -> Table:
    """The same for people."""
    shown = Table("tuner", "steps", "first loss", "last loss", "largest difference", box=MARKDOWN)
    for name, pair in pairs.items():
        first, last = (f"{pair.plain[i]:.3f}" for i in (0, -1))
        shown.add_row(name, str(len(pair.plain)), first, last, f"{pair.difference:.1e}")
    return shown


def main() -> None:
    """Parse options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--text", type=Path, default=Path("demo/data/icd10/train.jsonl"))
    parser.add_argument("--quick", action="store_true", help="ten steps")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = first_blocks(options.model, BLOCKS)
    pairs = measure(model, options.text, 10 if options.quick else STEPS)
    if options.json:
        print(json.dumps(results(pairs)))
    else:
        Console().print(table(pairs))


if __name__ == "__main__":
    main()
