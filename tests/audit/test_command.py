"""``sealtune audit`` as a user meets it, and what it keeps in the run's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sealtune.audit import attacks as registry
from sealtune.audit.attack import Attack
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.record import AUDIT, broken, carry_out, entries
from sealtune.audit.subject import Subject
from sealtune.cli.main import app
from tests.audit.run_folder import make_run
from tests.report.sample_run import write_run

GOOD, BAD = Rate(0.5, 0.4, 0.6, 9), Rate(0.9, 0.8, 1.0, 9)


def attack(name: str, protected: Rate, why_not: str = "") -> Attack:
    found = Finding(name, "first", "right answers", 0.5, BAD, protected, note="of nine")
    return Attack(name, f"Tries {name}.", "who tries", lambda _, report: [found], lambda _: why_not)


HELD = (attack("a", GOOD), attack("b", GOOD), attack("c", GOOD, "there is no such thing"))
BROKEN = (attack("a", GOOD), attack("b", BAD))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), llama)


@pytest.fixture(autouse=True)
def _attacks(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    (run_dir / AUDIT).unlink(missing_ok=True)
    monkeypatch.setattr(registry, "ATTACKS", HELD)


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)], env={"COLUMNS": "160"})


def test_findings_are_kept_in_the_run_folder(run_dir: Path) -> None:
    subject, seen = Subject(run_dir), list[tuple[str, float]]()

    def progress(one: Attack, share: float, what: str) -> None:
        seen.append((one.name, share))

    record = carry_out(subject, [*BROKEN, HELD[2]], progress)
    assert json.loads((run_dir / AUDIT).read_text()) == record
    assert [one["findings"][0]["verdict"] for one in record["attacks"][:2]] == ["held", "broken"]
    assert record["attacks"][2]["findings"] == []
    assert broken(record) == ["b"]
    assert seen[-1] == ("c", 1.0)
    kept = entries(run_dir, subject.job_id)
    record = carry_out(subject, [HELD[1]], progress, kept)
    assert [one["name"] for one in record["attacks"]] == ["a", "c", "b"]
    assert broken(record) == []
    assert entries(run_dir, "another job") == []


def test_the_table_and_the_exit_code(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(run_dir)
    assert result.exit_code == 0, result.output
    said = ("held", "0.9", "(0.4 to 0.6)", "apply: there is no such", "of nine", "guessing 0.5")
    for words in said:
        assert words in result.stdout
    monkeypatch.setattr(registry, "ATTACKS", BROKEN)
    result = run(run_dir, "--json")
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed == json.loads((run_dir / AUDIT).read_text())
    assert [one["name"] for one in printed["attacks"]] == ["c", "a", "b"]


def test_some_attacks_alone(run_dir: Path) -> None:
    result = run(run_dir, "--only", "b", "--json", "--quick")
    assert [(one["name"], one["quick"]) for one in json.loads(result.stdout)["attacks"]] == [
        ("b", True)
    ]
    result = run(run_dir, "--only", "b,z")
    assert result.exit_code == 2
    assert "there is no attack 'z'" in result.stderr
    assert "there are a, b, c" in result.stderr


def test_a_list_of_them(run_dir: Path) -> None:
    assert "Tries a.\n  Adversary: who tries." in run("--list").stdout
    assert "there is no such thing" not in run("--list").stdout
    assert "does not apply to this run: there is no such thing" in run(run_dir, "--list").stdout
    assert [one["name"] for one in json.loads(run("--list", "--json").stdout)] == ["a", "b", "c"]
    assert not (run_dir / AUDIT).exists()


def test_what_is_no_run(tmp_path: Path) -> None:
    assert run().exit_code == 2
    result = run(tmp_path)
    assert result.exit_code == 9
    assert "is not a run's folder" in result.stderr


def test_the_report_shows_them(run_dir: Path, tmp_path: Path) -> None:
    log = write_run(tmp_path / "sample") / "metrics.jsonl"
    (run_dir / "metrics.jsonl").write_bytes(log.read_bytes())
    try:
        result = run(run_dir)
        assert f"report: {run_dir / 'report.html'}" in result.stdout
        assert 'id="audit"' in (run_dir / "report.html").read_text()
    finally:
        (run_dir / "metrics.jsonl").unlink()
