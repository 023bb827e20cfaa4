"""What a person reads of a manifest before signing."""

from __future__ import annotations

from sealtune.cli.manifest_view import tuned
from sealtune.job.sections import LoraSpec, TuningSpec


def test_lower_ranks_are_named() -> None:
    lora = LoraSpec(rank=16, targets=("q_proj",), ranks={"north": 4, "south": 8})
    assert tuned(TuningSpec(lora=lora)) == "LoRA rank 16 (4 at north, 8 at south) on q_proj"
    assert tuned(TuningSpec(lora=LoraSpec(targets=("q_proj",)))) == "LoRA rank 8 on q_proj"
