"""LoRA through ``peft``: plain PEFT loads its files anywhere.

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from sealtune.errors import AdapterMismatchError, ModelError, TargetModulesError
from sealtune.job.plan import FirstValue
from sealtune.job.printable import first_line
from sealtune.job.sections import HEAD, LoraSpec
from sealtune.model.load import quiet
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import (
    ADAPTER,
    load_trainable_state,
    read_tensors,
    trainable_state,
    write_tensors,
)
from sealtune.tuning.file_names import PEFT_CONFIG, PEFT_WEIGHTS
from sealtune.tuning.head import is_head
from sealtune.tuning.tuner import Context, Tuner

# the keys of PEFT's settings that ``apply`` decides; a file that sets another is refused
_DECIDED = (
    "fan_in_fan_out", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "modules_to_save", "r", "target_modules", "task_type", "use_dora", "use_rslora",
)  # fmt: skip
_ELSEWHERE = ("base_model_name_or_path", "inference_mode", "peft_version")  # of the file alone


class Lora(Tuner):
    """``W x + (alpha / r) B A x`` in place of ``W x``: A [r, K] and B [N, r] are trained.

    With rsLoRA the scale is ``alpha / sqrt(r)`` (arXiv 2312.03732), with LoRA+ B has a learning
    rate of its own (arXiv 2402.12354), with DoRA lengths are trained apart (arXiv 2402.09353).
    """

    name = "lora"

    def apply(self, model: Any, settings: LoraSpec, context: Context) -> Any:
        """Wrap ``model`` in a PeftModel whose LoRA matrices (and head) are trainable, in float32.

        Raises:
            TargetModulesError: a target matches nothing, or something that is not a linear layer.
        """
        from peft import LoraConfig

        blocks_name, blocks = find_blocks(model)
        targets = _targets(model, settings, f"{blocks_name}.")
        layers = context.layers
        if layers and layers[-1] >= len(blocks):
            raise TargetModulesError(
                f"tuning.lora.layers names block {layers[-1]}, but the model has blocks 0 to "
                f"{len(blocks) - 1}"
            )
        transposed = any(
            isinstance(m, Conv1D) for n, m in model.named_modules() if n.split(".")[-1] in targets
        )
        config = LoraConfig(
            task_type="SEQ_CLS" if context.task == "classification" else "CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            layers_to_transform=None if layers is None else list(layers),
            layers_pattern=None if layers is None else blocks_name.split(".")[-1],
            modules_to_save=[HEAD] if context.head else None,
            fan_in_fan_out=transposed,
            use_rslora=settings.scaling == "rslora",
            use_dora=settings.dora,
        )
        return _wrapped(model, config)

    def first_value(
        self, name: str, shape: tuple[int, ...], settings: LoraSpec
    ) -> FirstValue | None:
        """B [N, r] starts at zero, A [r, K] as in the LoRA paper's code; or see ``first_values``.

        DoRA's lengths are those of the frozen weights, which no law states.
        """
        if settings.start == "orthogonal" and (".lora_A." in name or ".lora_B." in name):
            return FirstValue(law="orthogonal", scale=0.1)
        if ".lora_B." in name:
            return FirstValue(law="constant", scale=0)
        if ".lora_A." in name:
            return FirstValue(law="uniform", scale=1 / math.sqrt(shape[1]))
        return None

    def write(self, model: Any, base_model: str) -> dict[str, bytes]:
        """PEFT's two files."""
        settings = _plain_settings(model.peft_config[ADAPTER])
        settings |= {"base_model_name_or_path": base_model, "inference_mode": True}
        own = {
            name: tensor
            for name, tensor in trainable_state(model).items()
            if ".lora_" in name or (settings["modules_to_save"] and is_head(name))
        }
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        return {PEFT_WEIGHTS: write_tensors(own), PEFT_CONFIG: text.encode()}

    def install(self, model: Any, files: Mapping[str, bytes], source: str) -> Any:
        """What PEFT does with its files, every tensor compared."""
        config = _read_config(files[PEFT_CONFIG], f"{source}: {PEFT_CONFIG}")
        written = read_tensors(files[PEFT_WEIGHTS], f"{source}: {PEFT_WEIGHTS}")
        try:
            model = _wrapped(model, config)
        except Exception as error:  # peft raises many classes for settings that do not fit
            raise AdapterMismatchError(
                f"peft cannot put the adapter in {source} on its base model: {first_line(error)}"
            ) from error
        load_trainable_state(model, written, source)  # strict where peft only warns
        return model

    def merge(self, model: Any) -> Any:
        """PEFT's own merge."""
        with quiet():
            return model.merge_and_unload(safe_merge=True)


def _wrapped(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    with quiet():
        return get_peft_model(model, config)


def _targets(model: Any, lora: LoraSpec, prefix: str) -> list[str]:
    """Names of the layers to adapt, each checked to be linear and inside the blocks."""
    inside = {n: m for n, m in model.named_modules() if n.startswith(prefix)}
    linear = sorted(
        {n.split(".")[-1] for n, m in inside.items() if isinstance(m, nn.Linear | Conv1D)}
    )
    if lora.targets == "all-linear":
        return linear
    for target in lora.targets:
        hits = {n: m for n, m in model.named_modules() if n == target or n.endswith(f".{target}")}
        if not hits:
            near = difflib.get_close_matches(target, linear, n=3, cutoff=0.4) or linear
            raise TargetModulesError(
                f"tuning.lora.targets: '{target}' matches no module of {type(model).__name__}",
                hint=f'near names: {", ".join(near)}; or write "all-linear"',
            )
        for name, module in hits.items():
            if name not in inside or not isinstance(module, nn.Linear | Conv1D):
                what = type(module).__name__ if name in inside else "outside the decoder blocks"
                raise TargetModulesError(
                    f"tuning.lora.targets: '{target}' matches {name}, which is "
                    f"{what if name not in inside else f'a {what}, not a linear layer'}",
                    hint=f"linear layers of this model: {', '.join(linear)}",
                )
    return sorted(set(lora.targets))


def _plain_settings(config: Any) -> dict[str, Any]:
    """PEFT's settings as they stand in a file, wherever the model was."""
    settings: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=_plain))
    saved = [HEAD] if settings.get("modules_to_save") else None  # peft adds names of its own
    targets = sorted(settings["target_modules"])
    return settings | {"revision": None, "target_modules": targets, "modules_to_save": saved}


def _read_config(data: bytes, source: str) -> Any:
    """The settings in a file, which must be such as ``apply`` makes.

    PEFT knows many more, and some of them change the base model's weights.
    """
    from peft import LoraConfig

    try:
        written = json.loads(data)
        config = LoraConfig(**{key: written[key] for key in _DECIDED if key in written})
        expected = _plain_settings(config)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{source} is damaged: {first_line(error)}") from error
    odd = sorted(
        key
        for key, value in written.items()
        if value != expected.get(key) and key not in _ELSEWHERE
    )
    if odd:
        raise AdapterMismatchError(f"{source} sets {odd[0][:40]}, which no job does")
    return config


def _plain(value: object) -> object:
    """What JSON has no form for."""
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
