"""Which jobs differential privacy can be kept in; the others are refused, each with the reason.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.sections import JobSpec, TrainSpec, TuningSpec

if TYPE_CHECKING:
    from sealtune.job.settings import ModelSettings

_ONLY_WITH_UNIT = ("epsilon", "delta", "clip", "noise_multiplier")
_SITE, _EXAMPLE = 'privacy.unit = "site"', 'privacy.unit = "example"'


def privacy_disagreements(
    job: JobSpec | None,
    model: ModelSettings | None,
    tuning: TuningSpec | None,
    train: TrainSpec | None,
    aggregation: AggregationSpec | None,
    privacy: PrivacySpec | None,
) -> list[Problem]:
    """Faults between ``[privacy]`` and other sections; one that is itself faulty is None."""
    if privacy is None or job is None:
        return []
    if privacy.unit is None:
        return [
            Problem(f"privacy.{key}", "is given, but no unit: set privacy.unit, or remove it")
            for key in _ONLY_WITH_UNIT
            if privacy.changes(key)
        ]
    if job.rules.server_trains:
        words = (
            f'is "{privacy.unit}" in a {job.method} job: its server trains on exact activations, '
            "one step after another, without clipping or noise; remove it"
        )
        return [Problem("privacy.unit", words)]
    problems = []
    if job.trust != "enclaves":
        words = f"needs enclaves that clip and add noise; job.trust is {job.trust}"
        problems.append(Problem("privacy.unit", words))
    if privacy.site_metrics:
        words = "is true, but a site's own losses and answers have no noise; remove it or the unit"
        problems.append(Problem("privacy.site_metrics", words))
    if privacy.unit == "site":
        return problems + (_of_sites(aggregation) if aggregation else [])
    if train is not None and train.checkpointing:
        words = f"passes through tuned layers twice: {_EXAMPLE} needs one gradient of each example"
        problems.append(Problem("train.checkpointing", words))
    return problems + _of_examples(model, tuning, aggregation)


def _of_sites(aggregation: AggregationSpec) -> list[Problem]:
    problems = []
    if aggregation.rule != "fedavg":
        words = (
            f"is {aggregation.rule}, but {_SITE} needs fedavg: of a sum of clipped updates it is "
            "known how far one site can move it"
        )
        problems.append(Problem("aggregation.rule", words))
    if aggregation.norm_bound != "auto":
        words = f"is {aggregation.norm_bound}, but {_SITE} clips to privacy.clip: remove it"
        problems.append(Problem("aggregation.norm_bound", words))
    if aggregation.outliers != "discount":
        words = f"compares single updates, of which nothing may show where {_SITE}: leave it out"
        problems.append(Problem("aggregation.outliers", words))
    return problems


def _of_examples(
    model: ModelSettings | None, tuning: TuningSpec | None, aggregation: AggregationSpec | None
) -> list[Problem]:
    """What has a gradient of each example that can be clipped."""
    problems = []
    if model and model.task == "causal-lm":
        words = (
            f"is causal-lm, whose loss is a mean over the tokens of a whole batch: {_EXAMPLE} "
            "needs a loss of each example alone"
        )
        problems.append(Problem("model.task", words))
    if tuning and tuning.ptuning is not None:
        words = f"is a prefix that all examples share: {_EXAMPLE} needs a gradient of each, so LoRA"
        problems.append(Problem("tuning.ptuning", words))
    if tuning and tuning.lora is not None and tuning.lora.dora:
        words = (
            f"divides by a norm over LoRA's matrices, so that {_EXAMPLE} cannot take gradients of "
            "single examples from their inputs and outputs"
        )
        problems.append(Problem("tuning.lora.dora", words))
    return problems
