from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from sealtune.cli.errors import Commands
from sealtune.cli.evaluate import evaluate
from sealtune.cli.merge import merge
from sealtune.cli.predict import _warn_of_unfinished, predict
from sealtune.errors import AdapterMismatchError
from sealtune.job.sections import JobSpec, SitesSpec
from sealtune.job.spec import DataSpec
from sealtune.job.spec import Job as JobSettings
from sealtune.model.load import quiet
from sealtune.tuning.folder import load_adapter, save_adapter
from sealtune.tuning.inference import classify, continue_text, score_adapter
from tests.model.test_export import fingerprint
from tests.model.test_load import spec
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.test_training import run as train
from tests.model.tiny import LABELS, Text, batch_of, make_llama, make_texts
from tests.sample_job import write_job

app = typer.Typer(cls=Commands)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("merge")(merge)


def command(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def adapter(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = adapted(llama, targets="all-linear", alpha=32)
    for number in range(1, 5):
        train(model, task_of(llama), round=number)
    folder = tmp_path_factory.mktemp("answers") / "adapter"
    save_adapter(folder, model, fingerprint(llama))
    return folder


@pytest.fixture
def job_file(llama: Path, tmp_path: Path) -> Path:
    return write_job(tmp_path, llama, rows=(60, 60), data={"max_tokens": 32}, sites={"alpha": 5.0})


def test_evaluate_prints_a_table(adapter: Path, job_file: Path) -> None:
    result = command("evaluate", job_file, "--adapter", adapter)
    assert result.exit_code == 0, result.output
    for word in ("north", "south", "all", "60", "always the largest class"):
        assert word in result.stdout


def test_evaluate_counts_as_training_does(adapter: Path, job_file: Path) -> None:
    result = json.loads(command("evaluate", job_file, "--adapter", adapter, "--json").stdout)
    loaded = load_adapter(adapter)
    texts = make_texts(60, 2)
    right = sum(
        t.label == shares.index(max(shares))
        for t, shares in zip(texts, classify(loaded, [t.text for t in texts]), strict=True)
    )
    assert result["correct"] == right > 20  # of three classes
    assert result["total"] == 60
    assert result["accuracy"] == right / 60
    assert sum(line["correct"] for line in result["per_site"].values()) == right


def test_predict_prints_label_and_probability(adapter: Path) -> None:
    result = command("predict", "--adapter", adapter, "--text", "itching rash", "--text", "cough")
    assert result.exit_code == 0, result.output
    assert "%" in result.stdout
    assert "itching rash" in result.stdout


def test_a_line_ends_at_a_line_feed_and_nowhere_else(adapter: Path, tmp_path: Path) -> None:
    lines = [
        "acute angina\u2028of the left",
        "chronic rash\x0cof the right",
        "mild\x85cough",
        "x\ry",
    ]
    text = "\n".join(lines) + "\n"
    for content in (text, text.replace("\n", "\r\n"), "\ufeff" + text.rstrip("\n")):
        (tmp_path / "texts.txt").write_bytes(content.encode())
        said = command("predict", "--adapter", adapter, "--file", tmp_path / "texts.txt", "--json")
        assert [json.loads(line)["text"] for line in said.stdout.split("\n") if line] == lines


def test_a_run_without_an_end_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of them are answered all the same, the enclave decides: see ``test_split_attacks``."""
    ends = {
        "": "no end was recorded",
        '{"event":"end","outcome":"failed"}': "failed",
        '{"event":"end","outcome":"ok"}': None,
    }
    for line, said in ends.items():
        (tmp_path / "metrics.jsonl").write_text('{"event":"start"}\n' + line)
        _warn_of_unfinished(tmp_path)
        note = capsys.readouterr().err
        assert (f"has not finished ({said})" in note) if said else not note
        assert ("only if every round has been trained" in note) == bool(said)


def test_a_merged_model_loads_with_the_lines_that_are_printed(
    adapter: Path, tmp_path: Path
) -> None:
    said = command("merge", "--adapter", adapter, "--out", tmp_path / "merged")
    assert said.exit_code == 0, said.output
    code = "\n".join(line.strip() for line in said.stdout.splitlines() if line.startswith("  "))
    found: dict[str, Any] = {}
    with quiet():
        exec(code, found)
    texts = [t.text for t in make_texts(5, 1)]
    task = load_adapter(adapter).task
    shares = task.scores(found["model"].eval(), batch_of(task, [Text(t) for t in texts]))
    expected = classify(load_adapter(adapter), texts)
    assert torch.allclose(shares.softmax(1), torch.tensor(expected), atol=1e-4)


def test_predict_reads_lines_and_tables(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("rash\n\ncough\n")
    (tmp_path / "texts.csv").write_text("text,other\nrash,1\ncough,2\n")
    answers = [
        [json.loads(line) for line in result.stdout.splitlines()]
        for name in ("texts.txt", "texts.csv")
        if (result := command("predict", "--adapter", adapter, "--file", tmp_path / name, "--json"))
    ]
    assert answers[0] == answers[1]
    assert [answer["text"] for answer in answers[0]] == ["rash", "cough"]
    assert all(answer["label"] in LABELS for answer in answers[0])


def test_probabilities_add_up(adapter: Path) -> None:
    for shares in classify(load_adapter(adapter), [t.text for t in make_texts(7, 0)]):
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert len(shares) == len(LABELS)


def test_the_most_probable_label_comes_first(adapter: Path) -> None:
    words = ("predict", "--adapter", adapter, "--text", "rash", "--top", "3", "--json")
    answer = json.loads(command(*words).stdout)
    shares = [share for _, share in answer["top"]]
    assert shares == sorted(shares, reverse=True)
    assert (answer["label"], answer["probability"]) == tuple(answer["top"][0])


def test_a_language_model_continues(llama: Path, tmp_path: Path) -> None:
    model = adapted(llama, task="causal-lm")
    save_adapter(tmp_path / "adapter", model, fingerprint(llama, "causal-lm"))
    loaded = load_adapter(tmp_path / "adapter")
    assert continue_text(loaded, "acute", tokens=4) == continue_text(loaded, "acute", tokens=4)
    result = command("predict", "--adapter", tmp_path / "adapter", "--text", "acute", "--json")
    assert "continuation" in json.loads(result.stdout)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["predict", "--adapter", "{adapter}"], 2, "give one of the two: what is asked"),
        (["predict", "--run", "{nothing}"], 2, "give one of the two: what is asked"),
        (["predict", "--text", "x"], 2, "--adapter, --run: give one of the two: who answers"),
        (
            ["predict", "--adapter", "{adapter}", "--run", "{nothing}", "--text", "x"],
            2,
            "--adapter, --run: give one of the two, not both",
        ),
        (["predict", "--adapter", "{adapter}", "--text", "x", "--site", "a"], 2, "--run only"),
        (["predict", "--adapter", "{adapter}", "--file", "{empty}"], 3, "holds no texts"),
        (["predict", "--run", "{nothing}", "--text", "x"], 2, "is not a run's folder"),
        (["merge", "--adapter", "{adapter}", "--out", "{other}"], 9, "already there"),
        (["merge", "--adapter", "{nothing}", "--out", "{nothing}/m"], 4, "holds no sealtune.json"),
        (["predict", "--adapter", "{nothing}", "--text", "x"], 4, "holds no sealtune.json"),
        (["predict", "--adapter", "{adapter}", "--text", " "], 3, "blank"),
        (["predict", "--adapter", "{adapter}", "--file", "{nothing}.csv"], 3, "no file"),
        (["predict", "--adapter", "{adapter}", "--text", "x", "--model", "{other}"], 4, "another"),
    ],
)
def test_bad_input_is_explained(
    adapter: Path, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    other = make_llama(tmp_path / "other", seed=5)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    places = {
        "adapter": adapter, "nothing": tmp_path / "nothing", "other": other, "empty": empty,
    }  # fmt: skip
    result = command(*(word.format(**places) for word in words))
    assert result.exit_code == code
    assert said in result.stderr


@pytest.mark.parametrize(
    "change", [{"template": "{text} is"}, {"labels": ("heart", "lung", "skin", "nail")}]
)
def test_an_adapter_of_another_job_is_refused(
    adapter: Path, llama: Path, job_file: Path, change: dict[str, object]
) -> None:
    files = {n: job_file.parent / f"{n}.jsonl" for n in ("train", "test")}
    make: Callable[..., DataSpec] = DataSpec
    job = JobSettings(
        job=JobSpec(name="x"),
        model=spec(llama),
        data=make(**files, **change),
        sites=SitesSpec(names=("a",), partition="dirichlet"),
    )
    with pytest.raises(AdapterMismatchError, match=next(iter(change))):
        score_adapter(job, adapter)
