"""The tables repeat from stored jobs to the same page; rates and rows are chosen as said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sealtune.job.spec import Job

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import page
import stored_jobs
import table_accuracy
import table_costs
import tables
from demo_rows import draw_rows, first_blocks
from stored_jobs import Stored
from table_accuracy import COLUMNS, CPU, HELD, Wanted, best, job_values

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PAGE = "".join(f"<!-- table-{n}: begin -->\n<!-- table-{n}: end -->\n" for n in (1, 2, 3))


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "benchmarks.md").write_text(PAGE)
    return tmp_path


def settle(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tables.py", "--workers", "1", *options])
    monkeypatch.setattr(tables, "DATA_SETS", dict.fromkeys(tables.DATA_SETS, _Made()))


class _Made:
    def make(self, *_: object) -> bool:
        return False


def test_the_page_repeats_from_stored_jobs(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_jobs, "RESULTS", docs / "results")
    settle(monkeypatch, "--only", "table-1", "--seeds", "2", "--sets", "hpo,pubmedqa")
    ran = []

    def work(_: object, settings: dict[str, Any]) -> dict[str, Any]:
        ran.append(settings)
        score = len(json.dumps(settings)) % 17 / 20 + settings.get("rate", 0)
        return {"all": score, "own": score / 2, "loss": 1.0}

    monkeypatch.setattr(table_accuracy, "work", work)
    tables.main()
    first, jobs = (docs / "benchmarks.md").read_bytes(), len(ran)
    tables.main()
    assert len(ran) == jobs
    assert (docs / "benchmarks.md").read_bytes() == first
    assert first.count(b"\n| hpo |") == 2
    assert (docs / "table-1.svg").is_file()


def test_the_best_rate_answers_most_rows_then_loses_least() -> None:
    def trials(name: str, *scores: tuple[float, float, float]) -> list[Stored]:
        return [
            Stored({"set": name, "rate": rate}, {"all": share, "loss": loss}, 1.0, {})
            for rate, share, loss in scores
        ]

    one = trials("a", (1e-3, 0.5, 1.0), (3e-3, 0.4, 1.0), (1e-2, 0.5, 0.9))
    assert best(one) == 1e-2
    assert best(one + trials("b", (1e-3, 0.1, 1.0), (3e-3, 0.4, 1.0), (1e-2, 0.1, 1.0))) == 3e-3


def test_held_rows_are_neither_trained_on_nor_test_rows(tmp_path: Path) -> None:
    for part, count in (("train", 40), ("test", 20)):
        rows = [{"text": f"{part} {n}", "label": "ab"[n % 2]} for n in range(count)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def texts(file: Path) -> set[str]:
        return {json.loads(line)["text"] for line in file.read_text().splitlines()}

    plain = draw_rows(tmp_path, tmp_path / "a", train=30, test=15, seed=1)
    held = draw_rows(tmp_path, tmp_path / "b", train=30, test=15, seed=1, held=True)
    assert texts(plain.train) == texts(held.train)
    assert len(texts(plain.test)) == 15
    assert len(texts(held.test)) == 10
    assert not texts(held.test) & (texts(held.train) | texts(tmp_path / "test.jsonl"))
    assert texts(plain.test) <= texts(tmp_path / "test.jsonl")
    assert plain.labels == ("a", "b")
    other = draw_rows(tmp_path, tmp_path / "c", train=30, test=15, seed=2)
    assert texts(other.train) != texts(plain.train)


def test_every_column_is_a_job(llama: Path) -> None:
    wanted = Wanted(CPU)
    for column in COLUMNS:
        values = job_values(wanted.settings("hpo", column, 1, 1e-3), wanted.size, llama)
        values["data"] |= {"train": "-", "test": "-"}
        job = Job.model_validate(values)
        assert (job.job.method == "split") == column.startswith("method-2")
        lora = job.tuning.lora
        assert lora is None or lora.layers == (4, 5)


def test_trials_have_their_own_seed_and_a_third_of_the_rounds() -> None:
    wanted = Wanted(CPU)
    trials = wanted.trials("method-1-lora")
    assert trials == wanted.trials("plain-lora")
    assert {one["seed"] for one in trials} == {HELD}
    assert {one["size"]["rounds"] for one in trials} == {CPU.rounds // 3}


def test_a_cut_model_has_its_first_blocks(
    deep_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import safe_open

    monkeypatch.setenv("SEALTUNE_CACHE", str(tmp_path))
    folder = first_blocks(deep_llama, 2)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert any(".layers.1." in name for name in names)
    assert not any(".layers.2." in name for name in names)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2


def test_costs_repeat_from_stored_jobs(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_jobs, "RESULTS", docs / "results")
    settle(monkeypatch, "--only", "table-3")
    ran = []

    def work(_model: object, _data: object, settings: dict[str, Any]) -> dict[str, Any]:
        ran.append(settings)
        peak = {"one process": 5, "client:north": 7, "server": 2}
        found = {"step": 0.5, "seconds": 9.0, "processor": 8.0, "peak": peak}
        return found | {"bottom": 1.0, "bytes": {"up": 10, "down": 20}}

    monkeypatch.setattr(table_costs, "work", work)
    tables.main()
    first, jobs = (docs / "benchmarks.md").read_bytes(), len(ran)
    tables.main()
    assert len(ran) == jobs
    assert (docs / "benchmarks.md").read_bytes() == first
    assert b"| 1.00 x |" in first


def test_the_projects_page_follows_from_its_stored_jobs(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = {job.settings["seed"] for job in stored_jobs.kept("table-1")} - {HELD}
    if not seeds:
        pytest.skip("nothing is stored")
    section = page.DOCS / "benchmarks.md"
    settle(monkeypatch, "--only", "table-1", "--seeds", str(len(seeds)))

    def work(_: object, settings: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError(f"is not stored: {settings}")

    monkeypatch.setattr(table_accuracy, "work", work)
    monkeypatch.setattr(tables, "DEVICE", "cpu")
    tables.main()

    def of(file: Path) -> str:
        return file.read_text().split("<!-- table-1: begin -->")[1].split("<!-- table-1: end")[0]

    assert of(section) == of(BENCHMARKS.parent / "docs" / "benchmarks.md")
