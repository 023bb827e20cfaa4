"""The page's section of attacks that were tried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealtune.report import read_run, write
from sealtune.report.audit import attacks, verdicts
from tests.report.sample_run import Json, write_run


def rate(value: float) -> Json:
    return {"value": value, "low": max(0.0, value - 0.1), "high": value + 0.1, "trials": 40}


def finding(verdict: str, *rates: float, **own: object) -> Json:
    baseline, protected = [*map(rate, rates), None][:2]
    return {
        "attack": "adapter-extraction", "variant": "q_proj", "measure": "cosine <to> B A",
        "chance": 0.25, "baseline": baseline, "protected": protected, "limit": False, "note": "",
        "verdict": verdict, **own,
    }  # fmt: skip


def audited(folder: Path, *findings: Json, **own: object) -> Path:
    run_dir = write_run(folder / "run")
    entry = {
        "name": "adapter-extraction", "what": "Regress.", "adversary": "whoever",
        "not_applicable": "", "quick": False, "seconds": 12.0, "findings": list(findings),
    }  # fmt: skip
    other = {**entry, "name": "relay", "not_applicable": "there is no TEE", "findings": []}
    record = {
        "job_id": read_run(run_dir).signed["job_id"], "level": 0.999, "same_code": True,
        "attacks": [entry, other], **own,
    }  # fmt: skip
    (run_dir / "audit.json").write_text(json.dumps(record))
    return run_dir


def test_the_page_draws_each_finding(tmp_path: Path) -> None:
    run_dir = audited(
        tmp_path,
        finding("held", 0.9, 0.25),
        finding("broken", 12.0, 6.0, note="bits"),
        finding("limit", 0.8),
    )
    first, second, third = attacks(read_run(run_dir))[0].rows
    assert (first.at_chance, first.class_) == (250.0, "ok")
    assert [one[1:4] for one in first.intervals] == [(800, 900, 1000), (150, 250, 350)]
    assert second.intervals[0].high == 1000  # its own scale
    assert second.at_chance == pytest.approx(250 / 12.1, abs=0.1)
    assert [one.class_ for one in third.intervals] == ["baseline"]
    found = attacks(read_run(run_dir))
    assert verdicts(found) == {"broken": 1, "limit": 1, "held": 1}
    page = write(run_dir).read_text()
    for words in (
        'href="#audit"', "cosine &lt;to&gt; B A", "99.9\u00a0% intervals", "Does not apply: there",
        "Adversary: whoever.", "no protection",
        '<span class="badge failed">broken</span>', "0.9<br>(0.8 to 1)",
    ):  # fmt: skip
        assert words in page
    assert "The code that was attacked is not" not in page


def test_an_audit_of_another_job_is_no_part_of_the_page(tmp_path: Path) -> None:
    assert 'id="audit"' not in write(write_run(tmp_path / "none")).read_text()
    run_dir = audited(tmp_path, finding("held", 0.9, 0.25), job_id="00" * 48)
    assert 'id="audit"' not in write(run_dir).read_text()


def test_odd_figures_are_left_out(tmp_path: Path) -> None:
    odd = (
        finding("held", 0.9, 0.25, chance="x"),
        finding("held", 0.9, 0.25, baseline=None),
        finding("held", 0.9, 0.25, protected={"value": True}),
        finding("held", 0.9, 0.25, protected=7),
    )
    run_dir = audited(tmp_path, *odd, same_code=False)
    assert [entry.rows for entry in attacks(read_run(run_dir))] == [[], []]
    assert "The code that was attacked is not" in write(run_dir).read_text()
    (run_dir / "audit.json").write_text('{"attacks": 3, "job_id": [')
    write(run_dir)
