"""Ranks of single sites and the mean of products: what is refused before anything starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import MalformedManifestError
from sealtune.job.manifest import canonical, parse_manifest
from sealtune.job.sections import LoraSpec, TuningSpec
from tests.job.sample import make_manifest
from tests.job.test_load import faults, write

EXACT = {"rule": "exact"}


def test_a_site_scales_its_products_as_the_job_does() -> None:
    lora = LoraSpec(rank=16, alpha=32, ranks={"north": 4})
    north = TuningSpec(lora=lora).of_site("north").lora
    assert north == LoraSpec(rank=4, alpha=8)
    assert lora.of_site("south") == LoraSpec(rank=16, alpha=32)
    root = lora.model_copy(update={"scaling": "rslora"}).of_site("north")
    assert root.alpha / math.sqrt(root.rank) == 32 / math.sqrt(16)


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"lora": {"ranks": {"east": 2}}}, "tuning.lora.ranks.east", "there is no site 'east'"),
        ({"lora": {"ranks": {"north": 9}}}, "tuning.lora.ranks.north", "is 9, above"),
        (
            {"lora": {"ranks": {"north": 4}, "start": "orthogonal"}},
            "tuning.lora.start",
            'is "orthogonal"',
        ),
        ({"ptuning": {}}, "aggregation.rule", "there is no tuning.lora"),
        ({"lora": {"dora": True}}, "tuning.lora.dora", "masked layers hold none"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, changes: dict[str, Any], key: str, words: str
) -> None:
    found = faults(write(tmp_path, tuning=changes, aggregation=EXACT))
    assert words in found[key]


def test_ranks_need_the_rule_for_them(tmp_path: Path) -> None:
    found = faults(write(tmp_path, tuning={"lora": {"ranks": {"north": 4}}}))
    assert 'needs aggregation.rule = "exact"' in found["tuning.lora.ranks"]


def test_ranks_are_of_federated_jobs(tmp_path: Path) -> None:
    split = {"job": {"method": "split"}, "split": {"cut": 1}}
    found = faults(write(tmp_path, tuning={"lora": {"ranks": {"north": 4}}}, **split))
    assert "is for sites that train" in found["tuning.lora.ranks"]


def test_noise_for_whole_sites_needs_a_mean(tmp_path: Path) -> None:
    private = {"unit": "site", "epsilon": 8.0}
    found = faults(write(tmp_path, aggregation=EXACT, privacy=private))
    assert "needs fedavg" in found["aggregation.rule"]


def test_they_stand_beside_faults_of_single_keys(tmp_path: Path) -> None:
    found = faults(
        write(tmp_path, tuning={"lora": {"ranks": {"east": 9}}}, train={"batch_size": 0})
    )
    assert {"tuning.lora.ranks.east", "tuning.lora.ranks", "train.batch_size"} <= found.keys()


def test_no_manifest_has_them_either() -> None:
    content = make_manifest().model_dump(mode="json")
    content["settings"]["tuning"]["lora"]["ranks"] = {"east": 4}
    with pytest.raises(MalformedManifestError, match="there is no site 'east'"):
        parse_manifest(canonical(content))
