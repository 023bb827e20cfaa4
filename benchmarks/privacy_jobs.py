"""Whole federated jobs with a budget of privacy, on a model that is made in a second.

    Jobs(folder, "site", model, data).figures(report)

The parties are objects of one process (``in_process``). The tokenizer and the rows are those of the
demo.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from in_process import Objects
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import JobSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.spec import DataSpec, Job, ModelSpec
from sealtune.model.load import quiet

SITES = ("north", "south")
BUDGET = 4.3
NOISE = {"site": 2.0, "example": 1.0}  # for three of five rounds
_FILES = ("tokenizer.json", "tokenizer_config.json")


class Jobs:
    """Jobs with one unit of privacy.

    Args:
        folder: for everything that they write.
        unit: whose presence is hidden.
        model: folder with the demo's tokenizer.
        data: folder with the demo's sets.
    """

    def __init__(self, folder: Path, unit: str, model: Path, data: Path) -> None:
        self._folder, self._unit = folder / unit, unit
        self._folder.mkdir()
        base = self._folder / "model"
        _tiny_model(base, model)
        for part, rows in (("train", 120), ("test", 24)):
            lines = (data / "icd10" / f"{part}.jsonl").read_text().splitlines()[:rows]
            (self._folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
        self._job = Job(
            job=JobSpec(name="budget", rounds=5, seed=1),
            model=ModelSpec(path=str(base)),
            data=DataSpec(
                train=self._folder / "train.jsonl",
                test=self._folder / "test.jsonl",
                max_tokens=16,
            ),
            sites=SitesSpec(names=SITES, partition="dirichlet", alpha=100.0),
            tuning=TuningSpec.model_validate({"rank": 4}),
            train=TrainSpec(steps_per_round=2, batch_size=8, learning_rate=5e-3),
            privacy=PrivacySpec.model_validate(
                {"unit": unit, "epsilon": BUDGET, "noise_multiplier": NOISE[unit]}
            ),
        )

    def figures(self, report: Callable[[str], None]) -> dict[str, Any]:
        """What an uninterrupted job and one that is resumed twice have spent."""
        folders = [self._folder / name for name in ("whole", "broken")]
        whole, broken = (Objects(self._job, folder) for folder in folders)
        whole.carry(whole.server())
        broken.carry(broken.server(), 4)  # handshake, evaluation; dies in round 1
        broken.carry(broken.server(resume=True), 4)  # handshake, round 1; dies in round 2
        broken.carry(broken.server(resume=True))
        report(f"budget, unit {self._unit}")
        return {
            "budget": BUDGET,
            "allowed": whole.admitted.manifest.rounds,
            "trained": len(whole.of("round")) - 1,
            "spent": whole.of("privacy")[-1]["epsilon"],
            "spent_resumed": broken.of("privacy")[-1]["epsilon"],
            "ended": whole.of("privacy")[-1]["ended"],
            "released": all((folders[0] / "sites" / site / "adapter").is_dir() for site in SITES),
        }


def _tiny_model(folder: Path, demo: Path) -> None:
    """A random Llama of two blocks, with the demo's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(demo)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    with quiet():
        LlamaForCausalLM(config).save_pretrained(folder)
    for name in _FILES:
        shutil.copy(demo / name, folder / name)
