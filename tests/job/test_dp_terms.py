"""What a manifest says of differential privacy: its form, held against the settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sealtune.errors import ConfigError, MalformedManifestError
from sealtune.job.dp_terms import DpTerms
from sealtune.job.job_file import JobFile
from sealtune.job.load import load_job
from sealtune.job.manifest import canonical, manifest_bytes, parse_manifest
from sealtune.job.settings import Settings
from tests.job.sample import JOB, make_manifest
from tests.sample_job import job_values

TERMS = {
    "noise_multiplier": 1.5,
    "accountant": "rdp",
    "computed_by": "a library",
    "tables": [{"sites": ["north"], "epsilon": [1.0, 1.5, 2.5]},
               {"sites": ["south"], "epsilon": [0.5, 1.0, 1.5]}],
}  # fmt: skip


def settings(**privacy: Any) -> Settings:
    """The sample's, of three rounds, with a budget of 2."""
    values = JOB.settings.model_dump(mode="json")
    values["privacy"] = {"unit": "site", "epsilon": 2.0, "noise_multiplier": 1.5, **privacy}
    return Settings.model_validate_json(json.dumps(values))


def stated(of: Settings, dp: dict[str, Any] | None) -> bytes:
    """The bytes of a manifest of these settings."""
    content = json.loads(manifest_bytes(make_manifest()))
    return canonical({**content, "settings": of.model_dump(mode="json"), "dp": dp})


def changed(**changes: Any) -> dict[str, Any]:
    return {**TERMS, **changes}


def tables(*epsilons: list[float], sites: tuple[str, ...] = ("north", "south")) -> dict[str, Any]:
    return changed(
        tables=[{"sites": [s], "epsilon": e} for s, e in zip(sites, epsilons, strict=True)]
    )


def test_the_terms_follow_the_settings() -> None:
    """Three rounds are asked for; the site with the least privacy can pay for two."""
    manifest = parse_manifest(stated(settings(), TERMS))
    assert manifest.dp == DpTerms.model_validate_json(json.dumps(TERMS))
    assert (manifest.rounds, manifest.settings.job.rounds) == (2, 3)
    assert manifest.dp.epsilons(2) == {"north": 1.5, "south": 1.0}
    assert [manifest.dp.spent(n) for n in range(4)] == [0.0, 1.0, 1.5, 2.5]


def test_without_a_unit_there_are_none() -> None:
    manifest = make_manifest()
    assert manifest.dp is None
    assert manifest.rounds == manifest.settings.job.rounds


@pytest.mark.parametrize(
    ("dp", "message"),
    [
        (None, "no dp"),
        (changed(noise_multiplier=1.4), "noise_multiplier is 1.4, in the settings 1.5"),
        (changed(noise_multiplier=1e-12), "greater than or equal to 0.01"),
        (changed(accountant="mine"), "rdp"),
        (changed(more=1), "Extra inputs"),
        (tables([1, 1.5], [1, 1.5, 2]), "a table has 2 rounds, the job 3"),
        (tables([1, 1.5, 2, 3], [1, 1.5, 2]), "a table has 4 rounds, the job 3"),
        (tables([1, 2.0, 1.5], [1, 1.5, 2]), "costs less than an earlier one"),
        (tables([1, 1.5, -2], [1, 1.5, 2]), "greater than or equal to 0"),
        (tables([2.1, 2.5, 3], [1, 1.5, 2]), "the first round costs more"),
        (tables([1, 1.5, 2], sites=("north",)), "not of each site"),
        (tables([1, 1.5, 2], [1, 1.5, 2], sites=("north", "north")), "not of each site"),
        (tables([1, 1.5, 2], [1, 1.5, 2], sites=("north", "west")), "not of each site"),
    ],
)
def test_other_terms_are_refused(dp: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(MalformedManifestError, match=message):
        parse_manifest(stated(settings(), dp))


def test_terms_without_a_unit_are_refused() -> None:
    with pytest.raises(MalformedManifestError, match="there is dp, but no unit"):
        parse_manifest(stated(JOB.settings, TERMS))


def test_noise_that_is_worked_out_lasts_for_all_rounds() -> None:
    with pytest.raises(MalformedManifestError, match=r"2\.5 after all rounds exceeds the budget"):
        parse_manifest(stated(settings(noise_multiplier=None), TERMS))


@pytest.mark.parametrize(
    "privacy", [{"clip": 2.0}, {"delta": 1e-6}, {"noise_multiplier": 1.0}, {"epsilon": 1.0}]
)
@pytest.mark.parametrize("job", [{}, {"method": "split"}, {"trust": "secure-aggregation"}])
def test_keys_that_nobody_would_read_are_refused(
    privacy: dict[str, Any], job: dict[str, str]
) -> None:
    """Who asks for noise and gets none would believe in privacy that is not there."""
    split, (key,) = SPLIT if "method" in job else {}, privacy
    with pytest.raises(ValueError, match=rf"privacy\.{key}\n  is given, but no unit"):
        JobFile.model_validate(job_values("/m", **{**split, "job": job, "privacy": privacy}))


SITE = {"unit": "site", "epsilon": 8.0}
EXAMPLE = {"unit": "example", "epsilon": 8.0}
SPLIT = {"job": {"method": "split"}, "split": {"cut": 1}}
REFUSED = [
    ({"privacy": SITE, **SPLIT}, "privacy.unit", "a split job"),
    ({"privacy": EXAMPLE, **SPLIT}, "privacy.unit", "a split job"),
    ({"privacy": SITE, "job": {"trust": "secure-aggregation"}}, "privacy.unit", "needs enclaves"),
    ({"privacy": {**SITE, "noise_multiplier": 1e-12}}, "privacy.noise_multiplier", r"0\.01"),
    ({"privacy": {**SITE, "site_metrics": True}}, "privacy.site_metrics", "have no noise"),
    ({"privacy": SITE, "aggregation": {"rule": "exact"}}, "aggregation.rule", "needs fedavg"),
    ({"privacy": SITE, "aggregation": {"rule": "median"}}, "aggregation.rule", "needs fedavg"),
    ({"privacy": SITE, "aggregation": {"norm_bound": 2.0}}, "aggregation.norm_bound", "clips to"),
    ({"privacy": SITE, "aggregation": {"norm_bound": "none"}}, "aggregation.norm_bound", "clips"),
    (
        {"privacy": SITE, "aggregation": {"outliers": "report"}},
        "aggregation.outliers",
        "nothing may",
    ),
    ({"privacy": EXAMPLE, "model": {"task": "causal-lm"}}, "model.task", "a whole batch"),
    ({"privacy": EXAMPLE, "tuning": {"ptuning": {}}}, "tuning.ptuning", "all examples share"),
    ({"privacy": EXAMPLE, "tuning": {"dora": True}}, "tuning.lora.dora", "divides by a norm"),
]


@pytest.mark.parametrize(("sections", "key", "words"), REFUSED)
def test_jobs_in_which_it_cannot_be_kept(
    sections: dict[str, Any], key: str, words: str, tmp_path: Any
) -> None:
    """In a file with another fault, too: all are told at once."""
    from tests.sample_job import write_job

    with pytest.raises(ValueError, match=words) as refused:
        JobFile.model_validate(job_values("/m", **sections))
    assert key in str(refused.value)
    path = write_job(tmp_path, "/m", **{**sections, "network": {"deadline": -1}})
    with pytest.raises(ConfigError) as told:
        load_job(path)
    assert {key, "network.deadline"} <= {problem.key for problem in told.value.problems}


@pytest.mark.parametrize("privacy", [SITE, EXAMPLE])
def test_what_is_not_named_is_taken(privacy: dict[str, Any]) -> None:
    sections = {"privacy": privacy, "model": {"task": "label-words"}}
    if privacy is EXAMPLE:
        sections["aggregation"] = {"norm_bound": 2.0}
    assert JobFile.model_validate(job_values("/m", **sections)).privacy.epsilon == 8.0
