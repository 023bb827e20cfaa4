"""Make a frozen model trainable as a job says: LoRA, SPF, or both, and the task's head.

Trust domain: client enclave (federated), server enclave (split).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.errors import ConfigError, Problem
from sealtune.job.spec import SpfSpec, TuningSpec
from sealtune.model.load import HEAD
from sealtune.model.lora import apply_lora, initialise
from sealtune.model.spf import SPFConfig, apply_spf
from sealtune.model.spf.ranking import Calibrate


def apply_tuning(
    model: Any,
    tuning: TuningSpec,
    task: str,
    seed: int,
    *,
    first_block: int = 0,
    calibrate: Calibrate | None = None,
    heads: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
) -> Any:
    """Put LoRA and SPF on ``model``, with the first values that follow from the seed.

    Args:
        model: a frozen decoder, or the top of one.
        tuning: what to put on.
        task: ``classification`` also trains the head.
        seed: the job's seed.
        first_block: blocks before it are left alone: they run elsewhere.
        calibrate: for SPF's selectors that look at data.
        heads: SPF's heads, if they have been chosen before.

    Returns:
        A PeftModel where there is LoRA, otherwise ``model`` itself.

    Raises:
        ConfigError: blocks named in ``tuning`` run elsewhere.
        TargetModulesError, UnsupportedModelError, ModelError: see ``apply_lora``, ``apply_spf``.
    """
    _check_layers(tuning, first_block)
    if tuning.lora is not None:
        lora = tuning.lora
        if first_block and lora.layers is None:
            every = tuple(range(first_block, int(model.config.num_hidden_layers)))
            lora = lora.model_copy(update={"layers": every})
        model = apply_lora(model, lora, task, seed)
    if tuning.spf is not None:
        alone = tuning.lora is None and task == "classification"
        every = tuple(range(first_block, int(model.config.num_hidden_layers)))
        config = _config(tuning.spf, seed, (HEAD,) if alone else ())
        if config.layers is None:
            config = config.model_copy(update={"layers": every})
        if alone:
            getattr(model, HEAD).requires_grad_(True)
            initialise(model, seed)
        apply_spf(model, config, calibrate=calibrate, heads=heads)
    return model


def _config(spf: SpfSpec, seed: int, modules_to_save: tuple[str, ...]) -> SPFConfig:
    return SPFConfig(
        qkv=spf.qkv,
        dense=spf.dense,
        select=spf.select,
        seed=seed,
        layers=spf.layers,
        modules_to_save=modules_to_save,
    )


def _check_layers(tuning: TuningSpec, first_block: int) -> None:
    problems = []
    for name in ("lora", "spf"):
        part = getattr(tuning, name)
        early = [n for n in (part.layers or () if part else ()) if n < first_block]
        if early:
            problems.append(
                Problem(
                    f"tuning.{name}.layers",
                    f"names block {early[0]}, but blocks 0 to {first_block - 1} run at the sites",
                )
            )
    if problems:
        raise ConfigError("the job", problems)
