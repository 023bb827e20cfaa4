"""The command line as a user meets it: output, exit codes, no traces after failures."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from sealtune import __version__, errors
from sealtune.cli.errors import Commands, title_of
from sealtune.cli.main import app
from sealtune.demo import model as demo_model
from sealtune.demo.data_set import DataSet
from sealtune.job.describe import sections
from sealtune.job.job_file import JobFile
from sealtune.job.key_files import new_key
from sealtune.job.load import load_job
from sealtune.job.reference import template
from sealtune.job.sections import TuningSpec
from tests.model.tiny import make_llama
from tests.sample_job import SITES, write_job, write_rows


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def test_version_and_help() -> None:
    assert run("--version").output == f"sealtune {__version__}\n"
    for words in (["--help"], []):
        output = run(*words).output
        for command in ("init", "validate", "demo-data", "demo-model"):
            assert command in output


@pytest.mark.parametrize("command", ["init", "validate", "demo-data", "demo-model"])
def test_each_help_holds_an_example(command: str) -> None:
    result = run(command, "-h")
    assert result.exit_code == 0
    assert re.search(rf"Examples?:\s+sealtune {command}", result.output)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, sealtune.cli.main\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_command() -> None:
    result = run("vali")
    assert result.exit_code == 2
    assert "validate" in result.stderr


def test_init_writes_a_valid_file(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    assert run("init", path).exit_code == 0
    assert load_job(path).job.name == "my-job"
    assert f"sealtune validate {path}" in path.read_text()
    path.write_text("mine")
    result = run("init", path)
    assert result.exit_code == 9
    assert "already there" in result.stderr
    assert path.read_text() == "mine"
    assert run("init", path, "--force").exit_code == 0
    assert load_job(path).job.name == "my-job"
    assert run("init", tmp_path, "--force").exit_code == 9


def test_init_names_every_key(tmp_path: Path) -> None:
    """Keys that are left out by default stand there as comments, and are valid when switched on."""
    named: set[str] = set()
    # each says which, if alone
    with_another = ("hidden", "preset", "qkv", "ranks", "server_learning_rate")
    for method in ("federated-lora", "split"):
        text = template(method)
        for body in re.split(r"\n(?=(?:# )?\[)", text)[1:]:
            section = body[body.index("[") + 1 : body.index("]")]
            named |= {f"{section}.{key}" for key in re.findall(r"^(?:# )?(\w+) = ", body, re.M)}
        alone = re.search(r"(?s)\n# \[tuning\.ptuning\].*?\n(?=\n)", text)
        assert alone is not None
        text = text.replace(alone[0], "")
        if method == "split":  # a preset stands for them
            assert '\npreset = "spf-vo"' in text
            assert load_text(tmp_path, text).tuning == TuningSpec(preset="spf-vo")
            text = re.sub(r"\n# (\[tuning\.(?:lora|spf)\])", r"\n\1", text)
        for line in text.splitlines():
            key = re.match(r"# (\w+) = ", line)
            # "train = {" is the other form of a key that is set
            if key and key[1] not in with_another and not line.startswith("# train = {"):
                text = text.replace(line, line.removeprefix("# "))
        job = load_text(tmp_path, text)
        assert (job.network.min_sites, job.job.method) == (2, method)
    tables = sections()
    wanted = {f"{s}.{k}" for s, keys in tables.items() for k in keys if f"{s}.{k}" not in tables}
    assert {name for name in wanted if not name.startswith("equipment.")} <= named


def load_text(folder: Path, text: str) -> JobFile:
    (folder / "job.toml").write_text(text)
    return load_job(folder / "job.toml")


def job_with_data(folder: Path) -> Path:
    make_llama(folder / "model")
    path = write_job(folder, "./model")
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(40)]
    for name in ("train", "test"):
        write_rows(folder / f"{name}.jsonl", rows)
    return path


def test_validate(tmp_path: Path) -> None:
    path = job_with_data(tmp_path)
    result = run("validate", path)
    assert result.exit_code == 0, result.output
    assert "north" in result.output
    assert "2 of 2" in result.output
    assert "always guessing the most frequent class: 50.0%" in result.output
    assert re.search(r"[0-9a-f]{16}…  model\.safetensors", result.output)
    assert "not read" not in result.output
    assert re.search(
        r"steps a round, 16 rows each: north \d, south \d; 3 rounds: \d steps", result.output
    )
    assert "estimated time: " in result.output
    (tmp_path / "model" / "consolidated.safetensors").write_bytes(b"")
    assert (
        "not read, though it lies there: consolidated.safetensors" in run("validate", path).output
    )
    (tmp_path / "model" / "\x1b[2J.safetensors").write_bytes(b"")
    assert r"\x1b[2J.safetensors" in run("validate", path).output  # spelled out, not sent


def test_an_aggregation_that_there_is_not(tmp_path: Path) -> None:
    """Known before anything is signed or started, not when the server enclave looks it up."""
    path = write_job(tmp_path, make_llama(tmp_path / "model"), aggregation={"rule": "medoid"})
    keys = [f"--participant={site}={new_key(site, tmp_path)[1]}" for site in SITES]
    for command in (["validate"], ["run", "--runs", tmp_path], ["job", "build", *keys]):
        result = run(*command, path)
        assert result.exit_code == 2, result.output
        assert "aggregation.rule: is 'medoid', which is none of: " in result.output


def test_validate_reports_faults_by_their_kind(tmp_path: Path) -> None:
    path = job_with_data(tmp_path)
    (tmp_path / "test.jsonl").write_text('{"txt": "x", "label": "a"}\n')
    result = run("validate", path)
    assert result.exit_code == 3
    assert "Data error: " in result.stderr
    assert "available: 'txt', 'label'" in result.stderr
    assert "→ " in result.stderr
    (tmp_path / "test.jsonl").unlink()
    result = run("validate", path)
    assert result.exit_code == 2
    assert "data.test: there is no file" in result.stderr
    assert run("validate", path, "--settings-only").exit_code == 0
    path.write_text(path.read_text() + "[train]\nrank = 3\n")
    result = run("validate", path, "--settings-only")
    assert result.exit_code == 2
    assert "train.rank: unknown key here; it belongs into [tuning.lora]" in result.stderr


@pytest.mark.parametrize("subject", ["icd10", "hpo"])
def test_demo_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: str) -> None:
    def make(_: DataSet, out: Path, say: Any) -> bool:
        say("fetching")
        out.mkdir(parents=True)
        for name in ("train", "test"):
            (out / f"{name}.jsonl").write_text("{}\n" * 3)
        return True

    monkeypatch.setattr(DataSet, "make", make)
    monkeypatch.chdir(tmp_path)
    result = run("demo-data", subject)
    assert result.exit_code == 0
    assert f"made: demo/data/{subject}" in result.output
    assert "fetching ..." in result.stderr
    assert run("demo-data", "other").exit_code == 2


def test_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "make_demo_model", lambda out, say: False)
    result = run("demo-model", "--out", tmp_path / "m")
    assert result.output.endswith(f"was there already: {tmp_path / 'm'} (see MODEL_CARD.md)\n")


def failing(error: BaseException) -> Result:
    """The result of a command that raises ``error``."""
    toy = typer.Typer(cls=Commands)

    @toy.command("boom")
    def boom() -> None:
        raise error

    @toy.command("other")
    def other() -> None: ...

    return CliRunner().invoke(toy, ["boom"])


@pytest.mark.parametrize(
    ("error", "code", "title"),
    [
        (errors.ConfigError("f", [errors.Problem("a.b", "wrong")], hint="fix"), 2, "Config error"),
        (errors.DataError("m", hint="fix"), 3, "Data error"),
        (errors.UnsupportedModelError("m", hint="fix"), 4, "Unsupported model error"),
        (errors.PadReuseError("m", hint="fix"), 5, "Pad reuse error"),
        (errors.SealtuneError("m", hint="fix"), 1, "Sealtune error"),
    ],
)
def test_deliberate_errors(error: errors.SealtuneError, code: int, title: str) -> None:
    result = failing(error)
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr == f"{title}: {error.message}\n→ fix\n"
    assert title_of(error) == title


def test_markup_in_messages_is_not_interpreted() -> None:
    assert "[red]x[/nope]" in failing(errors.DataError("[red]x[/nope]")).stderr


def test_interrupt_ends_with_130() -> None:
    result = failing(KeyboardInterrupt())
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_full_disk_and_bugs() -> None:
    result = failing(OSError(errno.ENOSPC, "No space left on device", "/x/y"))
    assert result.exit_code == 9
    assert "Storage error: no space left on device: /x/y" in result.stderr
    assert isinstance(failing(OSError(errno.EBADF, "Bad file")).exception, OSError)
    assert isinstance(failing(ValueError("bug")).exception, ValueError)


def test_keys_without_their_manifest_are_refused(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    assert run("init", "--method", "split", job).exit_code == 0
    result = run("run", job, "--key", tmp_path / "north.key", "--runs", tmp_path / "runs")
    assert result.exit_code == 2
    assert "--manifest" in result.stderr
    assert not (tmp_path / "runs").exists()


HOSTILE = "he\x1b]0;title\x07\x1b[31mart\u202e[bold]x"


def test_names_from_files_cannot_steer_the_terminal(tmp_path: Path) -> None:
    path = job_with_data(tmp_path)
    rows = [{"text": f"text {i}", "label": (HOSTILE, "b")[i % 2]} for i in range(40)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    said = [run("validate", path)]
    assert said[0].exit_code == 0, said[0].output
    assert r"he\x1b]0;title" in said[0].output.replace("\n", "")
    text = path.read_text()
    for old, new in (
        ('"north"', json.dumps("nor\x1b[31mth")),
        ('"train.jsonl"', json.dumps("dir\x1b[31mred/train.jsonl")),
        ("partition", '"part\\u001b[31mition" = 1\npartition'),
    ):
        path.write_text(text.replace(old, new, 1))
        said.append(run("validate", path))
        assert said[-1].exit_code == 2
    said.append(run("validate", tmp_path / "no\x1b[31mpe.toml"))
    for result in said:
        assert not {c for c in result.output if not c.isprintable()} - {"\n"}, result.output


def test_hosts_of_the_demo_are_asked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("demo-hosts")
    assert (result.exit_code, list(tmp_path.iterdir())) == (9, [])
    assert "there is no examples/icd10.toml here" in result.stderr
    assert "make demo-hosts" in result.stderr
