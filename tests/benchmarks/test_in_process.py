"""A job as objects of one process is the job: the same adapter as the baseline, sealed bytes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sealtune.baseline.run import run as baseline
from sealtune.job.spec import Job
from tests.sample_job import SITES, make_job, write_texts

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from in_process import Outcome, run_job

SITE_METRICS = {"site_metrics": True}


@pytest.fixture
def make(tmp_path: Path, llama: Path) -> Any:
    train, test = (write_texts(tmp_path / f"{n}.jsonl", 24, s) for s, n in enumerate("ab"))

    def job(**sections: Any) -> Job:
        train_section = {"steps_per_round": 2, "batch_size": 4, "learning_rate": 1e-2}
        values = {"tuning": {"rank": 4}, "train": train_section, "privacy": SITE_METRICS}
        return make_job(llama, train, test, **values | sections)

    return job


def released(outcome: Outcome, sites: tuple[str, ...] = SITES) -> bool:
    return all((outcome.adapter(site) / "adapter_config.json").is_file() for site in sites)


@pytest.mark.parametrize("compute", ["enclave", "masked"])
def test_a_federated_job_trains_as_its_baseline_does(
    make: Any, tmp_path: Path, compute: str
) -> None:
    job = make(protection={"compute": compute})
    outcome = run_job(job, tmp_path / "run")
    plain = baseline(job, "plain-federated", tmp_path / "plain", quiet=True)
    curve = [event["train_loss"] for event in outcome.of("round")[1:]]
    close = 1e-5 if compute == "enclave" else 0.05  # int8 weights
    assert curve == pytest.approx(plain["loss_curve"], rel=close)
    assert released(outcome)
    final = outcome.of("final")[0]
    assert sum(one["correct"] for one in final["sites"].values()) == final["correct"]
    assert outcome.up > 0
    assert outcome.down > 0


def test_a_split_job(make: Any, tmp_path: Path) -> None:
    job = make(job={"method": "split"}, split={"cut": 1})
    messages: list[int] = []
    outcome = run_job(job, tmp_path / "run", advance=messages.append)
    assert released(outcome)
    assert len(outcome.of("round")) == job.job.rounds + 1
    assert messages == list(range(1, len(messages) + 1))


def test_a_job_under_secure_aggregation(make: Any, tmp_path: Path) -> None:
    sites = ("east", *SITES)
    job = make(
        job={"trust": "secure-aggregation"},
        sites={"names": list(sites), "alpha": 100.0},
        aggregation={"norm_bound": "none"},
        privacy={},
    )
    assert released(run_job(job, tmp_path / "run"), sites)
