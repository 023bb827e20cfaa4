"""What ``sealtune plan`` says of an enclave's memory, which ``offload_memory.py`` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.advise.costs import MIB, Batch
from sealtune.advise.enclave_memory import enclave_parts
from sealtune.advise.shape import read_shape
from sealtune.job.spec import Job
from tests import sample_job
from tests.model.tiny import make_llama

STEP = Batch(512, 64)


def parts_of(folder: Path, **sections: Any) -> dict[str, float]:
    job: Job = sample_job.make_job(folder, model={"task": "causal-lm"}, **sections)
    return enclave_parts(read_shape(job, None), STEP, job)


def test_what_is_kept_is_what_the_file_has(llama: Path) -> None:
    """A tied head is the embedding; of the four blocks norms alone stay."""
    parts = parts_of(llama)
    assert parts["embedding"] == 4 * 400 * 64
    assert parts["norms, biases and head"] == 4 * (4 * 2 * 64 + 64)
    assert parts["int8 weights, to make pads"] == 4 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_deeper_model_needs_its_activations_more(tmp_path: Path, checkpointing: bool) -> None:
    train = {"checkpointing": checkpointing}
    once, thrice = (
        parts_of(make_llama(tmp_path / str(blocks), blocks=blocks), train=train)
        for blocks in (4, 12)
    )
    for same in ("program and its libraries", "embedding", "logits of a few rows"):
        assert thrice[same] == once[same]
    grown = thrice["activations of a step"] / once["activations of a step"]
    assert (grown < 2) is checkpointing


def test_budgets_and_protection(llama: Path) -> None:
    parts = parts_of(llama, protection={"pad_budget": 7})
    assert parts["pads made ahead"] == 7 * MIB
    bare = parts_of(llama, protection={"protect": "insecure-none"})
    assert bare["int8 weights, to make pads"] == bare["pads made ahead"] == 0
