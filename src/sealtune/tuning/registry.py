"""Which tuners there are. One is loaded when a job or an adapter names it, and not before.

    TUNERS["ia3"] = Registered(("ia3_model.safetensors",), lambda: Scales())

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sealtune.errors import ModelError
from sealtune.job.sections import Section, TuningSpec
from sealtune.tuning.file_names import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    PTUNING_CONFIG,
    PTUNING_WEIGHTS,
    SPF_CONFIG,
    SPF_WEIGHTS,
)

if TYPE_CHECKING:
    from sealtune.tuning.tuner import Tuner


@dataclass(frozen=True)
class Registered:
    """What is known of a tuner before it is loaded.

    Attributes:
        files: its files in an adapter folder.
        load: imports it.
        behind_cut: its files instead where only the blocks behind a cut are tuned, if they differ.
    """

    files: tuple[str, ...]
    load: Callable[[], Tuner]
    behind_cut: tuple[str, ...] = ()


def _lora() -> Tuner:
    from sealtune.tuning.lora import Lora

    return Lora()


def _ptuning() -> Tuner:
    from sealtune.tuning.ptuning import Ptuning

    return Ptuning()


def _spf() -> Tuner:
    from sealtune.tuning.spf.tuner import Spf

    return Spf()


TUNERS: dict[str, Registered] = {
    "lora": Registered((PEFT_WEIGHTS, PEFT_CONFIG), _lora),
    "ptuning": Registered((PEFT_WEIGHTS, PEFT_CONFIG), _ptuning, (PTUNING_WEIGHTS, PTUNING_CONFIG)),
    "spf": Registered((SPF_WEIGHTS, SPF_CONFIG), _spf),
}


def registered(name: str) -> Registered:
    """The tuner called ``name``.

    Raises:
        ModelError: there is none.
    """
    if name not in TUNERS:
        raise ModelError(f"there is no tuner '{name[:40]}'; known: {', '.join(TUNERS)}")
    return TUNERS[name]


def sections(tuning: TuningSpec) -> dict[str, Any]:
    """The sections of ``[tuning]`` that a job has, in the order in which they are applied."""
    every = {name: getattr(tuning, name) for name in type(tuning).model_fields}
    return {name: section for name, section in every.items() if isinstance(section, Section)}
