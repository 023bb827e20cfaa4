"""Ways of tuning that do not go together are refused with the reason, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import MalformedManifestError
from sealtune.job.load import load_job
from sealtune.job.manifest import canonical, parse_manifest
from tests.job.sample import make_manifest
from tests.job.test_load import faults, write

SPLIT = {"job": {"method": "split"}, "split": {"cut": 1}}
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"tuning": {"ptuning": {}, "lora": {}}}, "tuning.ptuning", "by itself: PEFT puts no prefix"),
    ({**SPLIT, "tuning": {"ptuning": {}, "spf": {}}}, "tuning.ptuning", "beside spf"),
    ({"tuning": {"ptuning": {"hidden": 8}}}, "tuning.ptuning.hidden", "projection = true"),
    (
        {"train": {"checkpointing": True}, "tuning": {"ptuning": {}}},
        "train.checkpointing",
        "without the virtual tokens",
    ),
    ({"tuning": {"lora": {"dora": True}}}, "tuning.lora.dora", "masked layers hold none"),
    ({**SPLIT, "tuning": {"lora": {"dora": True}, "spf": {}}}, "tuning.lora.dora", "tuning.spf"),
    ({"tuning": {"lora": {"start": "pissa"}}}, "tuning.lora.start", "out of the frozen weights"),
    ({**SPLIT, "tuning": {"lora": {"start": "pissa"}}}, "tuning.lora.start", "frozen weights"),
    (
        {"tuning": {"lora": {"start": "orthogonal", "rank": 3}}},
        "tuning.lora.start",
        "an even tuning.lora.rank; it is 3",
    ),
    (
        {
            "tuning": {"lora": {"learning_rate_ratio": 100.0}},
            "train": {"learning_rate": 0.1, "weight_decay": 0.2},
        },
        "tuning.lora.learning_rate_ratio",
        "times train.learning_rate times train.weight_decay is above 1: no step may pass 0",
    ),
    (
        {
            "tuning": {"lora": {"learning_rate_ratio": 100.0, "learning_rate": 0.1}},
            "train": {"learning_rate": 1e-4, "weight_decay": 0.2},
        },
        "tuning.lora.learning_rate_ratio",
        "times tuning.lora.learning_rate times train.weight_decay is above 1",
    ),
    (
        {**SPLIT, "tuning": {"spf": {"learning_rate": 0.1}}, "train": {"weight_decay": 20.0}},
        "tuning.spf.learning_rate",
        "above 1: no step may pass 0",
    ),
    (
        {"train": {"weight_decay": 20.0, "head_learning_rate": 0.1}},
        "train",
        "head_learning_rate times weight_decay is above 1",
    ),
    (
        {"train": {"head_learning_rate": 0.1}, "model": {"task": "causal-lm"}},
        "train.head_learning_rate",
        "no head is trained",
    ),
]


@pytest.mark.parametrize(("changes", "key", "words"), CASES)
def test_what_does_not_go_together(
    tmp_path: Path, changes: dict[str, Any], key: str, words: str
) -> None:
    assert words in faults(write(tmp_path, **changes))[key]


def test_beside_other_faults(tmp_path: Path) -> None:
    """A reader sees all of them at once, whichever section they are in."""
    tuning = {"lora": {"dora": True, "start": "pissa"}, "ptuning": {}}
    found = faults(write(tmp_path, tuning=tuning, job={"rounds": 0}))
    assert {"tuning.ptuning", "tuning.lora.start", "job.rounds"} <= found.keys()


@pytest.mark.parametrize(
    "tuning",
    [{"ptuning": {"hidden": 8, "projection": True}}, {"lora": {"start": "orthogonal"}}],
)
def test_what_does(tmp_path: Path, tuning: dict[str, Any]) -> None:
    assert load_job(write(tmp_path, tuning=tuning)).tuning


def test_a_signed_manifest_of_them_is_refused() -> None:
    """Whoever made it: every party reads the settings anew."""
    content = make_manifest().model_dump(mode="json")
    content["settings"]["tuning"]["lora"]["dora"] = True
    with pytest.raises(
        MalformedManifestError, match=r"tuning\.lora\.dora: needs the frozen weights"
    ):
        parse_manifest(canonical(content))
