"""The page repeats from stored jobs; a baseline without bars and files is the baseline."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sealtune.baseline.run import run
from tests.enclave.flow import make_job

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import convergence
import page
import stored_jobs
from stored_jobs import Stored


def finished(settings: dict[str, Any]) -> Stored:
    """A job in which accuracy and cost grow with the rounds."""
    rounds = settings["size"]["rounds"]
    place = list(convergence.WAYS).index(settings["column"])
    figures = {
        "right": 0.1 * place + 0.03 * rounds,
        "seconds": (1.0 + place) * rounds,
        "bytes": place * rounds * 10**6,
    }
    return Stored(settings, figures, 1.0, {})


def test_the_page_repeats_from_stored_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(stored_jobs, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(
        convergence, "work", lambda _model, _data, settings: finished(settings).figures
    )
    monkeypatch.setattr(convergence, "DATA_SETS", {name: _Made() for name in convergence.SETS})
    monkeypatch.setattr(sys, "argv", ["convergence.py"])
    (tmp_path / "benchmarks.md").write_text(
        "<!-- convergence: begin -->\n<!-- convergence: end -->\n"
    )
    pages = []
    for _ in range(2):
        convergence.main()
        pages.append([(tmp_path / n).read_bytes() for n in ("benchmarks.md", "convergence.svg")])
    assert pages[0] == pages[1]
    assert "| icd10 | Method 1, masked | 9 | 47.0 |" in pages[0][0].decode()


def test_ways_are_compared_at_the_time_that_method_1_takes() -> None:
    jobs = [
        finished(
            {
                "set": "hpo",
                "column": way,
                "seed": seed,
                "size": asdict(replace(convergence.SIZE, rounds=n)),
            }
        )
        for way in convergence.WAYS
        for seed in (1, 2)
        for n in (1, 2, 9)
    ]
    found = convergence.figures(jobs)["hpo"]
    assert found["local"]["accuracy"] == pytest.approx([3, 6, 27])
    assert found["method-2-lora"]["seconds"] == [4, 8, 36]
    # after 27 s: local has ended at 27 %, Method 2 is on its way from 36 % at 8 s to 57 % at 36 s
    assert found["method_1_at_equal_time_minus_local"] == pytest.approx(47 - 27)
    assert found["method_1_at_equal_time_minus_method_2"] == pytest.approx(47 - 50.25, abs=0.1)


@pytest.mark.parametrize("kind", ["local", "plain-federated"])
def test_a_bare_baseline_is_the_baseline(llama: Path, tmp_path: Path, kind: Any) -> None:
    job = make_job(tmp_path, llama)
    report = run(job, kind, tmp_path / "run", quiet=True)
    found = convergence._of_baseline(job, averages=kind != "local")
    assert found["right"] == pytest.approx(report["accuracy_after"])
    assert (found["bytes"] > 0) == (kind != "local")


class _Made:
    def make(self, folder: Path, say: Any) -> None:
        """It is there."""
