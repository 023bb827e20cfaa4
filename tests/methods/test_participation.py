"""Who trains in a round: a sample of the signed settings, the same for whoever draws it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sealtune.errors import ConfigError, MalformedManifestError
from sealtune.job.load import load_job
from sealtune.job.manifest import canonical, parse_manifest
from sealtune.job.settings import Settings
from sealtune.methods.federated.participation import asked_in, draw
from tests.job.sample import JOB, make_manifest
from tests.sample_job import make_job, write_job

ALONE = {site: site for site in "abcde"}


def settings(sites: int = 4, **aggregation: Any) -> Settings:
    values = JOB.settings.model_dump()
    names = tuple(f"s{number}" for number in range(sites))
    network = {"min_sites": aggregation.pop("min_sites", None)}
    values |= {"aggregation": aggregation, "sites": {**values["sites"], "names": names}}
    return Settings.model_validate({**values, "network": network})


def test_the_sample_follows_from_seed_and_round() -> None:
    drawn = [draw(ALONE, 2, 1, 7, round_) for round_ in range(40)]
    assert drawn == [draw(ALONE, 2, 1, 7, round_) for round_ in range(40)]
    assert len(set(drawn)) > 5
    assert drawn != [draw(ALONE, 2, 1, 8, round_) for round_ in range(40)]


def test_every_sample_is_equally_likely_where_sites_are_organisations() -> None:
    counts = Counter(draw(ALONE, 2, 2, 1, round_) for round_ in range(5000))
    assert counts.keys() == set(combinations("abcde", 2))
    expected = 5000 / 10
    # chi-square of 9 degrees of freedom: above 27.9 in one of 1,000
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9


def test_every_sample_can_be_a_cohort() -> None:
    organisations = {**dict.fromkeys("abcdefgh", "chain"), "i": "clinic", "j": "lab"}
    for round_ in range(200):
        drawn = draw(organisations, 4, 3, 0, round_)
        assert len(set(drawn)) == 4
        assert {organisations[site] for site in drawn} == {"chain", "clinic", "lab"}


def test_all_are_asked_by_default() -> None:
    assert asked_in(make_manifest(), 3) == ("north", "south")


@pytest.mark.parametrize(("sites", "share", "asked"), [(30, 0.1, 3), (5, 0.5, 3), (4, 1.0, 4)])
def test_the_share_is_rounded_up(sites: int, share: float, asked: int) -> None:
    found = settings(sites, participation=share)
    assert found.asked == found.quorum == asked


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"participation": 0.25}, "asks 1 of 4 sites in a round, but an aggregate comes from 2"),
        ({"participation": 0.5, "min_sites": 3}, "is 3, but .* asks 2 of 4 sites in a round"),
    ],
)
def test_what_no_sample_can_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"participation": 0.5},
        {"personal": ["head"]},
        {"personal_steps": 3},
        {"proximal": 0.1},
        {"rule": "median"},
        {"norm_bound": 1.0},
    ],
)
def test_a_split_job_has_nothing_to_aggregate(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is for sites that train; a split job's do not"):
        make_job("m", job={"method": "split"}, split={"cut": 1}, aggregation=values)


def test_a_job_file_says_so_beside_its_other_faults(tmp_path: Path) -> None:
    sections = {"sites": {"names": list("abcd")}, "aggregation": {"participation": 0.2}}
    path = write_job(tmp_path, "m", train={"batch_size": 0}, **sections)
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    keys = {problem.key for problem in caught.value.problems}
    assert keys >= {"train.batch_size", "aggregation.participation"}


def test_a_manifest_whose_cohort_is_never_asked_is_refused() -> None:
    manifest = make_manifest()
    content = manifest.model_dump(mode="json")
    content["settings"]["aggregation"]["participation"] = 0.5
    with pytest.raises(MalformedManifestError, match="asks 1 of 2 sites"):
        parse_manifest(canonical(content))
