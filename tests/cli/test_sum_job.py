"""Commands on a job under secure aggregation: each says how much weaker it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.job.key_files import new_key
from tests.sample_job import write_job

SITES = ("north", "south", "west")


@pytest.fixture
def job(llama: Path, tmp_path: Path) -> Path:
    return write_job(
        tmp_path,
        llama,
        job={"trust": "secure-aggregation"},
        data={"max_tokens": 24},
        sites={"names": list(SITES), "alpha": 5.0},
        aggregation={"norm_bound": "none"},
    )


def say(*words: Any, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def signed(job: Path) -> Path:
    folder, out = job.parent, job.parent / "job.manifest.json"
    for site in SITES:
        new_key(site, folder)
    people = [w for s in SITES for w in ("--participant", f"{s}={folder / f'{s}.pub'}")]
    say("job", "build", job, "-o", out, *people)
    for site in SITES:
        say("job", "sign", out, "--key", folder / f"{site}.key", "--job", job)
    return out


def test_from_a_job_file_to_a_signed_manifest(job: Path) -> None:
    manifest = signed(job)
    verified = say("job", "verify", manifest, "--job", job)
    assert "valid" in verified
    assert "NOT CONFIDENTIAL: there is no TEE" in verified
    shown = say("job", "show", manifest)
    for words in (
        "none: SECURE AGGREGATION, WEAKER THAN ENCLAVES",
        "NOBODY: no TEE anywhere; sites sign, the server proves nothing",
        "nothing checks or bounds single updates",
        "federated-lora-secagg",
        "every sum holds the updates of at least 3 sites, of 3 organisations or more",
        "at each data owner",
    ):
        assert words in shown


def test_a_policy_where_nobody_shows_evidence(job: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text('{"kinds": {}}')
    for site in SITES:
        new_key(site, tmp_path)
    words = [w for s in SITES for w in ("--participant", f"{s}={tmp_path / f'{s}.pub'}")]
    said = say("job", "build", job, "--policy", policy, *words, code=2)
    assert "nobody shows any in this job" in said


def test_the_plan(job: Path) -> None:
    said = say("plan", job)
    assert "no TEE: the server sums masked updates, and single updates are unchecked" in said
    assert "enclave" not in said


def test_validation_estimates_no_other_way_of_doing_it(job: Path) -> None:
    assert "estimated time" not in say("validate", job)
