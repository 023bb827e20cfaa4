"""Make a frozen model trainable as a job says: LoRA, SPF, or both, and the task's head.

Trust domain: client enclave (federated), server enclave (split).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealtune.errors import ConfigError, Problem
from sealtune.job.spec import TuningSpec
from sealtune.model.load import HEAD
from sealtune.tuning.lora import apply_lora, initialise
from sealtune.tuning.spf import SPFConfig, apply_spf
from sealtune.tuning.spf.ranking import Calibrate


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
    _refuse_early(tuning, first_block)
    every = tuple(range(first_block, int(model.config.num_hidden_layers)))
    lora, spf = tuning.lora, tuning.spf
    if lora is not None:
        if first_block and lora.layers is None:
            lora = lora.model_copy(update={"layers": every})
        model = apply_lora(model, lora, task, seed)
    if spf is not None:
        alone = lora is None and task == "classification"
        if spf.layers is None:
            spf = spf.model_copy(update={"layers": every})
        head = (HEAD,) if alone else ()
        config = SPFConfig(**spf.model_dump(), seed=seed, modules_to_save=head)
        if alone:
            getattr(model, HEAD).requires_grad_(True)
            initialise(model, seed)
        apply_spf(model, config, calibrate=calibrate, heads=heads)
    return model


def early_layers(tuning: TuningSpec, first_block: int) -> dict[str, list[int]]:
    """Key of a section -> the blocks before ``first_block`` that it names, if there are any."""
    named = {"lora": tuning.lora, "spf": tuning.spf}
    early = {
        f"tuning.{name}.layers": [n for n in part.layers if n < first_block]
        for name, part in named.items()
        if part is not None and part.layers is not None
    }
    return {key: blocks for key, blocks in early.items() if blocks}


def _refuse_early(tuning: TuningSpec, first_block: int) -> None:
    problems = [
        Problem(key, f"names block {early[0]}, but blocks 0 to {first_block - 1} run at the sites")
        for key, early in early_layers(tuning, first_block).items()
    ]
    if problems:
        raise ConfigError("the job", problems)
