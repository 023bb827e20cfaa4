"""Presets and short forms of ``[tuning]``: what they stand for, what wins, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sealtune.cli.training_view import tuned
from sealtune.job.load import load_job
from sealtune.job.manifest import canonical
from sealtune.job.presets import PRESETS
from sealtune.job.sections import SpfSpec, TuningSpec
from sealtune.job.settings import Settings
from tests.job.test_load import faults, write

SPLIT = {"job": {"method": "split"}, "split": {"cut": 1}}
QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")


def spec(**tuning: Any) -> TuningSpec:
    return TuningSpec.model_validate(tuning)


def test_a_preset_is_the_keys_that_it_stands_for() -> None:
    paper, vo = spec(preset="paper"), spec(preset="spf-vo")
    assert paper == spec(spf={"qkv": 0.25, "dense": 0.25}, lora={"rank": 8, "targets": QKVO})
    assert vo.spf == SpfSpec(query=0, key=0, value=1, dense=0.22, select="fisher", warm_steps=48)
    assert vo.lora is not None
    assert vo.lora.targets == ("q_proj", "k_proj", "gate_proj", "up_proj", "down_proj")
    for one in (paper, vo):
        assert one.preset is None
        written = one.model_dump(mode="json")
        assert "preset" not in written
        assert "qkv" not in written["spf"]
        assert TuningSpec.model_validate(written) == one


@pytest.mark.parametrize("short", [False, True])
def test_keys_beside_a_preset_win_and_the_others_stay(short: bool) -> None:
    lora: dict[str, Any] = {"rank": 4} if short else {"lora": {"rank": 4}}
    found = spec(preset="spf-vo", spf={"qkv": 0.5, "select": "random"}, **lora)
    want = spec(preset="spf-vo")
    assert found.lora is not None
    assert want.lora is not None
    assert want.spf is not None
    assert found.lora == want.lora.model_copy(update={"rank": 4})
    changed = {"query": 0.5, "key": 0.5, "value": 0.5, "select": "random"}
    assert found.spf == want.spf.model_copy(update=changed)


@pytest.mark.parametrize("name", PRESETS)
def test_a_manifest_holds_the_keys_of_a_preset(name: str) -> None:
    sections: dict[str, Any] = {
        **SPLIT, "job": {"name": "a", "method": "split"}, "model": {}, "data": {},
        "sites": {"names": ["north", "south"]},
    }  # fmt: skip
    text = canonical(Settings.model_validate({**sections, "tuning": {"preset": name}}).model_dump())
    assert b"preset" not in text
    assert canonical(Settings.model_validate_json(text).model_dump()) == text
    assert json.loads(text)["tuning"]["spf"].items() >= PRESETS[name]["spf"].items()  # type: ignore[index]


def test_what_a_preset_stands_for_is_shown() -> None:
    words = tuned(spec(preset="paper"))
    assert words.startswith(
        "SPF 0.25 of QKV and 0.25 of dense, l1-largest and LoRA rank 8 on q_proj"
    )
    words = tuned(spec(preset="spf-vo", spf={"release_heads": True}))
    assert words.startswith("SPF 1 of value and 0.22 of dense, fisher after 48 warm steps, chosen")
    assert tuned(spec(spf={"query": 0.5})).startswith(
        "SPF 0.5 of query, 0.25 of key, 0.25 of value"
    )


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"preset": "spf-ov"}, "tuning.preset", '"spf-ov"; it should be one of "paper", "spf-vo"'),
    ({"preset": 3}, "tuning.preset", "is 3; it should be one of"),
    ({"spf": {"qkv": 0.5, "key": 0.5}}, "tuning.spf", "has qkv beside key"),
    ({"preset": "paper", "spf": {"qkv": 0.5, "value": 0}}, "tuning", "has qkv beside value"),
    ({"spf": {"qkv": 1.5}}, "tuning.spf.qkv", "is 1.5; it should be a number from 0 to 1"),
    ({"spf": {"qkv": True}}, "tuning.spf.qkv", "is true; it should be a number from 0 to 1"),
    ({"spf": {"value": -1}}, "tuning.spf.value", "is -1; it should be a number from 0 to 1"),
    ({"spf": {"qkv": 0, "dense": 0}}, "tuning.spf", "nothing would be tuned"),
    ({"preset": "paper", "spf": {"rank": 1}}, "tuning.spf.rank", "belongs into [tuning.lora]"),
    ({"preset": "paper", "spf": {"dense": "x"}}, "tuning.spf.dense", 'is "x"'),
    ({"spf": {"warm_steps": 5}}, "tuning.spf.warm_steps", 'select = "fisher" alone reads it'),
    ({"spf": {"release_heads": True}}, "tuning.spf.release_heads", "follow from no data"),
    ({"preset": "paper", "ptuning": {}}, "tuning.ptuning", "by itself"),
]


@pytest.mark.parametrize(("tuning", "key", "words"), CASES)
def test_what_is_refused(tmp_path: Path, tuning: dict[str, Any], key: str, words: str) -> None:
    assert words in faults(write(tmp_path, **SPLIT, tuning=tuning))[key]


def test_a_preset_of_split_jobs_is_refused_elsewhere(tmp_path: Path) -> None:
    found = faults(write(tmp_path, tuning={"preset": "spf-vo"}))
    assert "a preset may ask for it" in found["tuning.spf"]


def test_a_job_file_with_a_preset_loads(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, **SPLIT, tuning={"preset": "spf-vo", "rank": 2}))
    assert job.tuning == spec(preset="spf-vo", lora={"rank": 2})
