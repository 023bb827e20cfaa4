"""What the summary and the page say of a job with differential privacy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealtune.launch.progress import Progress
from sealtune.report import build_summary, write
from tests.report import sample_run as sample
from tests.report.sample_run import Json, write_run

COSTS = {"hospital-north": [0.5, 0.75, 0.9, 1.2], "clinic-coast": [1.0, 1.5, 2.0, 2.5]}


def private_job(budget: float) -> Json:
    """The sample's, whose smallest site pays most."""
    job = sample.resolved()
    job["settings"]["privacy"] = {"unit": "example", "epsilon": budget, "delta": 1e-5, "clip": 0.5}
    north = ["hospital-north", "hospital-south"]
    tables = [
        {"sites": north, "epsilon": COSTS["hospital-north"]},
        {"sites": ["clinic-coast"], "epsilon": COSTS["clinic-coast"]},
    ]
    job["dp"] = {"noise_multiplier": 1.25, "accountant": "rdp", "tables": tables}
    return job


def spent(after: int, *, ended: bool = False, role: str = "server") -> Json:
    epsilon = COSTS["clinic-coast"][after - 1]
    return {
        "time": 1.0, "role": role, "event": "privacy", "round": after,
        "epsilon": epsilon, "delta": 1e-5, "budget": 2.0, "ended": ended,
    }  # fmt: skip


def happened(rounds: int) -> list[Json]:
    """The sample's events up to a round, at which the budget ends."""
    events = [
        e for e in sample.events() if e["event"] not in ("round", "final") or e["round"] <= rounds
    ]
    told = [spent(n) for n in range(1, rounds + 1)]
    return [*events, *told, spent(rounds, ended=True)]


def test_what_was_spent_follows_from_the_signed_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", happened(3), private_job(2.0))
    found = build_summary(run)["privacy"]
    assert found == {
        "unit": "example", "clip": 0.5, "noise_multiplier": 1.25, "delta": 1e-5, "budget": 2.0,
        "epsilon": 2.0, "rounds_allowed": 3, "ended_early": True,
        "sites": {"hospital-north": 0.9, "hospital-south": 0.9, "clinic-coast": 2.0},
        "curve": {
            "rounds": [1, 2, 3], "worst": [1.0, 1.5, 2.0],
            "sites": {
                "hospital-north": [0.5, 0.75, 0.9], "hospital-south": [0.5, 0.75, 0.9],
                "clinic-coast": [1.0, 1.5, 2.0],
            },
        },
    }  # fmt: skip
    page = write(run).read_text()
    for words in ("The budget ended training", "epsilon spent", "1.25", "Privacy spent"):
        assert words in page


def test_only_the_server_tells_what_was_spent(tmp_path: Path) -> None:
    events = [*sample.events(), spent(1), spent(2, role="client:clinic-coast")]
    run = write_run(tmp_path / "run", events, private_job(2.0))
    assert build_summary(run)["privacy"]["curve"]["rounds"] == [1]


def test_without_it_there_is_nothing_to_say(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert build_summary(run)["privacy"] is None
    assert 'id="privacy"' not in write(run).read_text()


@pytest.mark.parametrize("odd", [None, "x", -1, [], {}, True, 1e400, [1]])
def test_odd_values_never_crash(tmp_path: Path, odd: object) -> None:
    for key in ("dp", "tables", "sites", "epsilon"):
        job = private_job(2.0)
        for one in (job, job["dp"], job["dp"]["tables"][0], job["settings"]["privacy"]):
            if key in one:
                one[key] = odd
        run = write_run(tmp_path / key, happened(3), job)
        json.dumps(build_summary(run), allow_nan=False)
        assert write(run).is_file()


def test_the_terminal_says_what_is_left() -> None:
    from sealtune.job.event_log import parse

    progress = Progress.begin(("clinic-coast",), 4)
    for event in (spent(1), spent(3, ended=True)):
        parsed = parse(json.dumps(event))
        assert parsed is not None
        progress.apply(parsed)
    first, last = progress.notices
    assert first == "privacy: epsilon 1 of 2, delta 1e-05 after round 1"
    assert last.endswith("the budget is spent after round 3 of 4, whose adapter is the result")
