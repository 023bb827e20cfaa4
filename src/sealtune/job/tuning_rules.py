"""Which ways of tuning go together, and with the rest of a job.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from collections.abc import Iterator

from sealtune.errors import Problem
from sealtune.job.sections import JobSpec, LoraSpec, TrainSpec, TuningSpec


def tuning_disagreements(
    job: JobSpec | None,
    tuning: TuningSpec | None,
    train: TrainSpec | None,
) -> list[Problem]:
    """Faults of ``[tuning]`` with itself and others; a section that is itself faulty is None."""
    if tuning is None:
        return []
    problems = [*_of_ptuning(tuning, train)]
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
    ratio = lora.learning_rate_ratio
    if train is not None and train.learning_rate * ratio * train.weight_decay > 1:
        words = "times train.learning_rate and train.weight_decay is above 1: no step may pass 0"
        yield Problem(f"{key}.learning_rate_ratio", words)
