"""Secure aggregation: what no server could do that sees sums only is refused before any start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import MalformedManifestError
from sealtune.job.load import load_job
from sealtune.job.manifest import Participant, canonical, parse_manifest
from sealtune.job.method import METHODS
from sealtune.job.spec import Job
from tests.job.sample import DATA, PARTICIPANTS, make_manifest
from tests.job.test_load import faults, write

THREE = ["north", "south", "west"]
BASE: dict[str, dict[str, Any]] = {
    "job": {"name": "demo", "trust": "secure-aggregation"},
    "sites": {"names": THREE, "partition": "dirichlet"},
    "aggregation": {"norm_bound": "none"},
}


def sections(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    both = BASE.keys() | changes.keys()
    return {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in both}


def test_a_job_of_three_sites(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, **sections()))
    assert job.job.rules is METHODS["federated-lora-secagg"]
    assert job.quorum == 3


@pytest.mark.parametrize("bound", ["none", 0.5])
def test_bounds_that_sites_can_keep_themselves(tmp_path: Path, bound: float | str) -> None:
    load_job(write(tmp_path, **sections(aggregation={"norm_bound": bound})))


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("sites", "names", ["north", "south"], "are 2; a sum needs 3"),
        ("network", "min_sites", 2, "3 of 3 sites must see a round through"),
        ("aggregation", "rule", "median", "looks at single updates"),
        ("aggregation", "rule", "exact", "looks at single updates"),
        ("aggregation", "norm_bound", "auto", "follows single updates"),
        ("aggregation", "participation", 0.5, "more than two thirds of all sites"),
        ("aggregation", "personal", ["head"], "not possible"),
        ("privacy", "site_metrics", True, "sums only, of metrics too"),
        ("protection", "protect", "adapter", "neither enclave nor accelerator"),
        ("protection", "integrity_bits", 41, "neither enclave nor accelerator"),
        ("protection", "attestation", "tdx", "neither enclave nor accelerator"),
    ],
)
def test_refused_with_the_reason(
    tmp_path: Path, section: str, key: str, value: object, words: str
) -> None:
    found = faults(write(tmp_path, **sections(**{section: {key: value}})))
    assert words in found[f"{section}.{key}"]


@pytest.mark.parametrize("unit", ["site", "example"])
def test_differential_privacy_needs_an_enclave(tmp_path: Path, unit: str) -> None:
    found = faults(write(tmp_path, **sections(privacy={"unit": unit, "epsilon": 8.0})))
    assert "needs enclaves that clip and add noise" in found["privacy.unit"]


def test_a_split_job_sums_nothing(tmp_path: Path) -> None:
    job = {"job": {**BASE["job"], "method": "split"}, "split": {"cut": 1}}
    found = faults(write(tmp_path, **sections(**job)))
    assert 'is for job.method = "federated-lora" only' in found["job"]


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = faults(
        write(
            tmp_path,
            **sections(
                sites={"names": ["north", "south"]},
                aggregation={"norm_bound": "auto", "rule": "median"},
                protection={"attestation": "sgx"},
            ),
        )
    )
    assert found.keys() >= {
        "sites.names", "aggregation.norm_bound", "aggregation.rule", "protection.attestation"
    }  # fmt: skip


def settings(*names: str) -> Any:
    job = {
        "job": BASE["job"],
        "model": {"path": "/m"},
        "data": {"train": "/d/a.csv", "test": "/d/t.csv"},
        "sites": {"names": list(names), "partition": "dirichlet"},
        "aggregation": {"norm_bound": "none"},
    }
    return Job.model_validate(job).settings


def manifest(participants: tuple[Participant, ...], *sites: str, **changes: Any) -> Any:
    return make_manifest(
        settings=settings(*sites),
        participants=participants,
        data=dict.fromkeys(sites, DATA),
        code={"owner-trainer": "ef" * 48, "secagg-server": "ee" * 48},
        appraisal={},
        **changes,
    )


CLINIC, LAB = PARTICIPANTS
OFFICE = Participant(org="office", key=f"{5:064x}", sites=("west",))


def test_a_manifest_names_its_method_and_no_evidence() -> None:
    found = manifest((CLINIC, LAB, OFFICE), *THREE)
    assert found.method == "federated-lora-secagg"
    assert (found.appraisal, found.min_cohort) == ({}, 3)


def test_three_sites_of_two_organisations_are_refused() -> None:
    """One of them could take its own two sites' updates off the sum."""
    lab = LAB.model_copy(update={"sites": ("south", "west")})
    with pytest.raises(MalformedManifestError, match="are 2 organisations; it takes 3"):
        manifest((CLINIC, lab), *THREE)


def test_a_manifest_of_another_method_than_its_settings() -> None:
    content = manifest((CLINIC, LAB, OFFICE), *THREE).model_dump(mode="json")
    content["method"] = "federated-lora"
    with pytest.raises(MalformedManifestError, match="that of the job federated-lora-secagg"):
        parse_manifest(canonical(content))


def test_smaller_cohorts_than_three_are_refused() -> None:
    content = manifest((CLINIC, LAB, OFFICE), *THREE).model_dump(mode="json")
    content["min_cohort"] = 2
    with pytest.raises(MalformedManifestError, match="min_cohort is 2; with 3 organisations"):
        parse_manifest(canonical(content))
