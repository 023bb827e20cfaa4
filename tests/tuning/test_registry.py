"""A program loads the tuners that its job names, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import sealtune.enclave.client
from sealtune.job.sections import LoraSpec, SpfSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.model.load import load_model
from sealtune.tuning.apply import apply_tuning
model = load_model(ModelSpec(path=sys.argv[1], task="label-words"), None, meta=True)
tuning = TuningSpec(lora=LoraSpec()) if sys.argv[2] == "lora" else TuningSpec(spf=SpfSpec())
apply_tuning(model, tuning, "label-words", 1)
print(*sorted({name.split(".")[2] for name in sys.modules if name.startswith("sealtune.tuning.")}))
print("peft" in sys.modules)
"""


@pytest.mark.parametrize(
    ("named", "other", "peft"), [("lora", "spf", True), ("spf", "lora", False)]
)
def test_a_program_loads_only_the_tuners_that_its_job_names(
    llama: Path, named: str, other: str, peft: bool
) -> None:
    words = [sys.executable, "-c", SCRIPT, str(llama), named]
    loaded, with_peft = subprocess.check_output(words, text=True).splitlines()
    assert named in loaded.split()
    assert other not in loaded.split()
    assert with_peft == str(peft)
