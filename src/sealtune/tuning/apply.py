"""Make a frozen model trainable as a job says: every tuner that it names, and the task's head.

Trust domain: client enclave (federated), server enclave (split).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from sealtune.errors import ConfigError, ModelError, Problem
from sealtune.job.plan import FirstValue
from sealtune.job.sections import TuningSpec
from sealtune.model.trainable import (
    draw_tensors,
    set_learning_rate,
    trainable_parameters,
    trainable_state,
)
from sealtune.tuning.head import head_first_value
from sealtune.tuning.registry import registered, sections
from sealtune.tuning.tuner import Calibrate, Context, Tuner, Warm


def apply_tuning(
    model: Any,
    tuning: TuningSpec,
    task: str,
    seed: int,
    *,
    first_block: int = 0,
    calibrate: Calibrate | None = None,
    warm: Warm | None = None,
    choices: Mapping[str, Any] | None = None,
) -> Any:
    """Put what ``tuning`` names on ``model``, with the first values that follow from the seed.

    Args:
        model: a frozen decoder, or the top of one.
        tuning: what to put on.
        task: ``classification`` also trains the head.
        seed: the job's seed.
        first_block: blocks before it are left alone: they run elsewhere.
        calibrate: for tuners that look at data.
        warm: for tuners that choose after a few steps.
        choices: what ``tuning_choices`` returned, to tune the same again.

    Returns:
        ``model``, or what the tuners have wrapped around it, such as a PeftModel.

    Raises:
        ConfigError: blocks named in ``tuning`` run elsewhere.
        TargetModulesError, UnsupportedModelError, ModelError: see the tuners' ``apply``.
    """
    problems = [
        Problem(key, f"names block {early[0]}, but blocks 0 to {first_block - 1} run at the sites")
        for key, early in early_layers(tuning, first_block).items()
    ]
    if problems:
        raise ConfigError("the job", problems)
    behind_cut = tuple(range(first_block, int(model.config.num_hidden_layers)))
    for place, (name, settings) in enumerate(sections(tuning).items()):
        context = Context(
            task=task,
            seed=seed,
            head=task == "classification" and place == 0,
            layers=_layers(settings) or (behind_cut if first_block else None),
            calibrate=calibrate,
            warm=warm,
            choices=(choices or {}).get(name),
        )
        tuner = registered(name).load()
        model = tuner.apply(model, settings, context)
        # also before the next tuner looks at what the model does
        draw_tensors(trainable_state(model), _laws(model, {tuner: settings}), seed)
        for key, parameter in trainable_parameters(model).items():
            set_learning_rate(parameter, partial(tuning.learning_rate, key))
    return model


def tuning_choices(model: nn.Module, tuning: TuningSpec) -> dict[str, Any]:
    """Tuner -> what it chose by looking at data, JSON-able; without those that chose nothing."""
    every = {name: registered(name).load().choices(model) for name in sections(tuning)}
    return {name: chosen for name, chosen in every.items() if chosen is not None}


def first_values(model: nn.Module, tuning: TuningSpec) -> dict[str, FirstValue]:
    """Trainable tensor -> how it begins.

    Raises:
        ModelError: a tensor that no tuner knows.
    """
    tuners = {registered(name).load(): settings for name, settings in sections(tuning).items()}
    laws = _laws(model, tuners)
    if unknown := sorted(trainable_state(model).keys() - laws.keys()):
        raise ModelError(f"no tuner says how {unknown[0]} begins, so no update can be checked")
    return laws


def _laws(model: nn.Module, tuners: Mapping[Tuner, Any]) -> dict[str, FirstValue]:
    """Trainable tensor -> how it begins, as far as ``tuners`` say, each by its settings."""
    laws: dict[str, FirstValue] = {}
    for name, tensor in trainable_state(model).items():
        shape = tuple(tensor.shape)
        stated = [one.first_value(name, shape, settings) for one, settings in tuners.items()]
        for law in (*stated, head_first_value(name)):
            if law is not None:
                laws.setdefault(name, law)
    return laws


def early_layers(tuning: TuningSpec, first_block: int) -> dict[str, list[int]]:
    """Key of a section -> the blocks before ``first_block`` that it names, if there are any."""
    early = {
        f"tuning.{name}.layers": [n for n in _layers(settings) or () if n < first_block]
        for name, settings in sections(tuning).items()
    }
    return {key: blocks for key, blocks in early.items() if blocks}


def _layers(settings: Any) -> tuple[int, ...] | None:
    """The blocks that a section names; not every tuner works on blocks."""
    layers = getattr(settings, "layers", None)
    return None if layers is None else tuple(sorted(set(layers)))
