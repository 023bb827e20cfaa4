"""Which ways of tuning go together, and with the rest of a job.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sealtune.errors import Problem
from sealtune.job.sections import JobSpec, LoraSpec, SpfSpec, TrainSpec, TuningSpec

if TYPE_CHECKING:
    from sealtune.job.settings import ModelSettings

_NO_STEP = "times train.weight_decay is above 1: no step may pass 0"


def tuning_disagreements(
    job: JobSpec | None,
    model: ModelSettings | None,
    tuning: TuningSpec | None,
    train: TrainSpec | None,
) -> list[Problem]:
    """Faults of ``[tuning]`` with itself and others; a section that is itself faulty is None."""
    problems = [*_of_head(model, train)]
    if tuning is None:
        return problems
    problems += [*_of_ptuning(tuning, train), *_of_spf(tuning.spf, train)]
    if tuning.lora is not None:
        problems += _of_lora(job, tuning.lora, tuning.spf is not None, train)
    return problems


def _of_ptuning(tuning: TuningSpec, train: TrainSpec | None) -> Iterator[Problem]:
    key, ptuning = "tuning.ptuning", tuning.ptuning
    if ptuning is None:
        return
    for other in ("lora", "spf"):
        if getattr(tuning, other) is not None:
            words = f"is trained by itself: PEFT puts no prefix beside {other}; remove one of them"
            yield Problem(key, words)
    if ptuning.hidden is not None and not ptuning.projection:
        words = f"is the width of a perceptron, which {key}.projection = true asks for"
        yield Problem(f"{key}.hidden", words)
    if train is not None and train.checkpointing:
        words = "would compute blocks anew without the virtual tokens of tuning.ptuning"
        yield Problem("train.checkpointing", words)


def _of_spf(spf: SpfSpec | None, train: TrainSpec | None) -> Iterator[Problem]:
    key = "tuning.spf"
    if spf is None:
        return
    if spf.select != "fisher" and spf.changes("warm_steps"):
        words = f'is {spf.warm_steps}, but select = "fisher" alone reads it; leave it out'
        yield Problem(f"{key}.warm_steps", words)
    if spf.release_heads and not spf.looks_at_data:
        words = f'is true, but heads chosen by "{spf.select}" follow from no data; leave it out'
        yield Problem(f"{key}.release_heads", words)
    rate = spf.learning_rate
    if rate and train is not None and rate * train.weight_decay > 1:
        yield Problem(f"{key}.learning_rate", _NO_STEP)


def _of_head(model: ModelSettings | None, train: TrainSpec | None) -> Iterator[Problem]:
    if model is None or train is None or train.head_learning_rate is None:
        return
    if model.task != "classification":
        words = f'is given, but no head is trained: model.task is "{model.task}"; leave it out'
        yield Problem("train.head_learning_rate", words)


def _of_lora(
    job: JobSpec | None, lora: LoraSpec, beside_spf: bool, train: TrainSpec | None
) -> Iterator[Problem]:
    key = "tuning.lora"
    if lora.dora and job is not None and not job.rules.server_trains:
        words = (
            "needs the frozen weights: in a site's enclave masked layers hold none, and a server "
            'without the model cannot draw the first lengths; set job.method = "split"'
        )
        yield Problem(f"{key}.dora", words)
    if lora.dora and beside_spf:
        words = "takes lengths from the frozen weights, which tuning.spf changes; remove one"
        yield Problem(f"{key}.dora", words)
    if lora.start == "pissa":
        words = (
            'is "pissa", which takes the largest singular values out of the frozen weights; those '
            'are public, int8, and the same for everybody; take "orthogonal" or "lora"'
        )
        yield Problem(f"{key}.start", words)
    if lora.start == "orthogonal" and lora.rank % 2:
        words = f'is "orthogonal", which needs an even {key}.rank; it is {lora.rank}'
        yield Problem(f"{key}.start", words)
    ratio, own = lora.learning_rate_ratio, lora.learning_rate
    if train is not None and (own or train.learning_rate) * ratio * train.weight_decay > 1:
        rate = "tuning.lora.learning_rate" if own else "train.learning_rate"
        yield Problem(f"{key}.learning_rate_ratio", f"times {rate} {_NO_STEP}")
