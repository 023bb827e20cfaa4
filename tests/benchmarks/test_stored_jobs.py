"""Stored jobs: run once, kept in order, byte for byte; one that fails leaves the others."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import stored_jobs
from stored_jobs import JobsFailed, kept, stored


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stored_jobs, "RESULTS", tmp_path)
    return tmp_path


class Job:
    """Counts its runs; some settings fail."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    def __call__(self, settings: dict[str, Any]) -> dict[str, Any]:
        seed = settings["seed"]
        self.ran.append(seed)
        if seed < 0:
            raise ValueError("a seed below zero")
        return {"square": seed * seed, "root": math.nan if seed > 99 else seed**0.5}


def square(settings: dict[str, Any]) -> dict[str, Any]:
    return {"square": settings["seed"] ** 2}


def seeds(*numbers: int) -> list[dict[str, Any]]:
    return [{"set": "hpo", "seed": number} for number in numbers]


def test_what_is_stored_is_not_run_again(results: Path) -> None:
    job = Job()
    stored("t", seeds(3, 1), job)
    again = stored("t", seeds(1, 2, 3, 2), job)
    assert job.ran == [3, 1, 2]
    assert [one.figures["square"] for one in again] == [1, 4, 9, 4]
    stored("t", seeds(2), job, fresh=True)
    assert job.ran == [3, 1, 2, 2]
    assert len(kept("t")) == 3


def test_the_file_is_sorted_and_stays_as_it_is(results: Path) -> None:
    job = Job()
    stored("t", [{"seed": 2, "set": "hpo"}, {"set": "a", "seed": 1}], job)
    file = results / "t.jsonl"
    before = file.read_bytes()
    assert [one.settings["seed"] for one in kept("t")] == [1, 2]
    stored("t", [{"seed": 1, "set": "a"}, {"set": "hpo", "seed": 2}], job)
    assert file.read_bytes() == before
    assert job.ran == [2, 1]


def test_a_failed_job_is_named_and_leaves_the_rest(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job()
    with pytest.raises(JobsFailed, match=r'2 of 4 jobs failed:\n.*"seed": -1.*\n.*"seed": 100'):
        stored("t", seeds(1, -1, 100, 2), job)
    assert [one.settings["seed"] for one in kept("t")] == [1, 2]
    assert "a seed below zero" in capsys.readouterr().err
    with pytest.raises(JobsFailed):
        stored("t", seeds(1, -1, 2), job)
    assert job.ran == [1, -1, 100, 2, -1]


def test_jobs_of_another_process_are_kept(results: Path) -> None:
    def run(settings: dict[str, Any]) -> dict[str, Any]:
        if settings["seed"] == 1:  # another process stores one meanwhile
            stored("t", seeds(7), Job())
        return {"square": 0}

    stored("t", seeds(1), run)
    assert [one.settings["seed"] for one in kept("t")] == [1, 7]


def test_workers_do_the_same(results: Path) -> None:
    found = stored("t", seeds(2, 1, 3), square, workers=2)
    assert [one.figures["square"] for one in found] == [4, 1, 9]
    assert [one.settings["seed"] for one in kept("t")] == [1, 2, 3]
    assert set(found[0].versions) >= {"sealtune", "torch", "python", "processor"}
