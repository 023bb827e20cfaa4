"""``sealtune run`` up to the point where processes start, and what it says afterwards."""

from __future__ import annotations

import io
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from safetensors.numpy import save

from sealtune import launch, report
from sealtune.cli import run as cli
from sealtune.cli.results import show_results
from sealtune.errors import (
    ConfigError,
    DataError,
    DigestMismatchError,
    PortInUseError,
    ProcessDiedError,
    SealtuneError,
    StorageError,
)
from sealtune.job.local import Local, read_local
from sealtune.job.spec import Job
from sealtune.plan.resolve import Resolution
from tests.job.sample import DATA, LABELS, MODEL, PLAN
from tests.report.sample_run import events, write_run

WEIGHTS = save({"lora_A.weight": np.ones((2, 3), np.float32)})
JOB = """
[job]
name = "tiny"
rounds = 2
[model]
path = "model"
[data]
train = "train.jsonl"
test = "train.jsonl"
[sites]
names = ["a", "b"]
partition = "dirichlet"
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    rows = [{"text": f"text {i}", "label": "yes" if i % 4 else "no"} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path / "job.toml"


class Stage:
    """Stands in for what takes long: resolving, and the processes."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.act: Callable[[Path], None] = self.succeed

    @staticmethod
    def resolve(job: Job) -> Resolution:
        from sealtune.data.site import discover_labels

        discover_labels(job)
        data = dict.fromkeys(job.sites.names, DATA)
        return Resolution(job, LABELS, PLAN, MODEL, data, majority_class=0.057)

    def run(self, parties: list[Local], **options: Any) -> None:
        self.calls.append({"parties": parties, **options})
        self.act(parties[0].folder)

    @staticmethod
    def succeed(run_dir: Path) -> None:
        lines = (json.dumps(event) + "\n" for event in events())
        (run_dir / "metrics.jsonl").write_text("".join(lines))
        for site in ("a", "b"):
            (run_dir / "sites" / site / "adapter").mkdir(parents=True, exist_ok=True)
            folder = run_dir / "sites" / site / "adapter"
            (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
            (folder / "sealtune.json").write_bytes(b"{}")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr("sealtune.plan.resolve.resolve", stage.resolve)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data-home"))
    monkeypatch.setattr(launch, "run", stage.run)
    return stage


def start(job_file: Path, **options: Any) -> Path:
    defaults = {"resume": False, "force": False, "port": None, "baseline": None}
    runs = job_file.parent / "runs"
    cli.run(job_file, runs, **(defaults | options))
    return runs / "tiny"


def test_a_run_and_its_results(
    job_file: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = start(job_file)
    (call,) = stage.calls
    assert call["port"] is None
    assert [party.name for party in call["parties"]] == [
        "accelerator",
        "server",
        "site-a",
        "site-b",
    ]
    assert {party.manifest for party in call["parties"]} == {run_dir / "job.manifest.json"}
    assert not any(party.resume for party in call["parties"])
    for party in call["parties"]:
        assert read_local(run_dir / "parties" / f"{party.name}.json") == party
    assert call["facts"] == {"majority_class": 0.057, "job_file": str(job_file)}
    assert (run_dir / "job.toml").read_text() == JOB
    assert (run_dir / "adapter" / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert {"summary.json", "report.html", "logs"} <= {path.name for path in run_dir.iterdir()}
    assert (run_dir / "job.manifest.json").exists()
    printed = capsys.readouterr().out
    assert {path.stat().st_mode & 0o077 for path in (run_dir, *run_dir.rglob("*"))} == {0}
    assert "throw-away keys: the signatures prove nothing" in printed
    assert "68.1%" in printed
    assert "NOT CONFIDENTIAL" in printed
    assert str(run_dir / "adapter") in printed
    assert str(run_dir / "report.html") in printed


def test_a_second_run_is_refused_before_anything_is_read(job_file: Path, stage: Stage) -> None:
    start(job_file)
    (job_file.parent / "train.jsonl").unlink()
    with pytest.raises(StorageError, match="holds a run already"):
        start(job_file)
    assert len(stage.calls) == 1


def test_force_starts_over(job_file: Path, stage: Stage) -> None:
    mark = start(job_file) / "mark"
    mark.write_text("")
    start(job_file, force=True)
    assert len(stage.calls) == 2
    assert not mark.exists()


GPU = '[protection]\ncompute = "attested-gpu"\n'


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_is_asked_for_before_an_earlier_run_is_touched(job_file: Path, stage: Stage) -> None:
    run_dir = start(job_file)
    job_file.write_text(JOB + GPU)
    with pytest.raises(ConfigError, match="finds none here") as caught:
        start(job_file, force=True)
    assert "sealtune run --device cpu" in caught.value.hint
    assert (run_dir / "metrics.jsonl").exists()
    start(job_file, force=True, device=cli.Device.CPU)
    stage.act = stage.succeed
    start(job_file, resume=True)  # where it was started
    for call in stage.calls[1:]:
        devices = {party.role: party.device for party in call["parties"]}
        assert devices == {"server": None, "site": "cpu"}


def test_a_gpu_that_nobody_signed_is_refused(job_file: Path, stage: Stage) -> None:
    with pytest.raises(ConfigError, match='device: is "cuda"; a GPU that proves nothing'):
        start(job_file, device=cli.Device.CUDA)
    assert not stage.calls


def break_settings(job_file: Path) -> None:
    job_file.write_text(JOB + "colour = 'red'\n")


def break_data(job_file: Path) -> None:
    (job_file.parent / "train.jsonl").write_text('{"text": "x", "label": "one"}\n' * 9)


@pytest.mark.parametrize(
    ("damage", "kind"), [(break_settings, ConfigError), (break_data, DataError)]
)
def test_bad_input_costs_no_earlier_run(
    job_file: Path, stage: Stage, damage: Callable[[Path], None], kind: type[SealtuneError]
) -> None:
    run_dir = start(job_file)
    damage(job_file)
    with pytest.raises(kind):
        start(job_file, force=True)
    assert (run_dir / "summary.json").exists()


def test_bad_input_leaves_no_trace(job_file: Path, stage: Stage) -> None:
    break_data(job_file)
    with pytest.raises(DataError):
        start(job_file)
    assert not (job_file.parent / "runs").exists()


def test_a_port_in_use_leaves_no_trace(job_file: Path, stage: Stage) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(PortInUseError):
            start(job_file, port=sock.getsockname()[1])
    assert not (job_file.parent / "runs").exists()


def test_a_failure_is_reported_and_told(job_file: Path, stage: Stage) -> None:
    def fail(run_dir: Path) -> None:
        (run_dir / "metrics.jsonl").write_text('{"event":"start","role":"launcher","time":1}\n')
        raise ProcessDiedError("accelerator was killed")

    stage.act = fail
    with pytest.raises(ProcessDiedError):
        start(job_file)
    assert (job_file.parent / "runs" / "tiny" / "summary.json").exists()


def test_an_interrupt_says_how_to_go_on(
    job_file: Path, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(run_dir: Path) -> None:
        raise launch.Interrupted(signal.SIGINT)

    stage.act = stop
    with pytest.raises(typer.Exit) as caught:
        start(job_file)
    assert caught.value.exit_code == 130
    runs = job_file.parent / "runs"
    assert f"sealtune run {job_file} --runs {runs} --resume" in capsys.readouterr().out


def test_resume(job_file: Path, stage: Stage) -> None:
    with pytest.raises(StorageError, match="no run to resume"):
        start(job_file, resume=True)
    start(job_file)
    start(job_file, resume=True)
    resumed = [[p.name for p in call["parties"] if p.resume] for call in stage.calls]
    assert resumed == [[], ["server"]]
    assert stage.calls[1]["facts"] == {"majority_class": 0.057, "job_file": str(job_file)}


def test_resume_of_a_changed_job(job_file: Path, stage: Stage) -> None:
    start(job_file)
    job_file.write_text(JOB.replace("rounds = 2", "rounds = 3"))
    with pytest.raises(StorageError, match="has changed"):
        start(job_file, resume=True)
    (job_file.parent / "train.jsonl").rename(job_file.parent / "moved.jsonl")
    job_file.write_text(JOB.replace("train.jsonl", "moved.jsonl"))
    with pytest.raises(StorageError, match="has changed"):
        start(job_file, resume=True)
    with pytest.raises(StorageError, match="exclude each other"):
        start(job_file, resume=True, force=True)


@pytest.mark.parametrize("content", [None, b"", b'{"role": "site"'])
def test_resume_without_a_partys_file(job_file: Path, stage: Stage, content: bytes | None) -> None:
    file = start(job_file) / "parties" / "site-b.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"site-b\.json") as caught:
        start(job_file, resume=True)
    assert "put it back from a copy, or start over with --force" in caught.value.hint


def test_resume_with_another_runs_manifest(job_file: Path, stage: Stage) -> None:
    """The cause is named, and it is not the job file, which is as it was."""
    manifest = start(job_file) / "job.manifest.json"
    own = manifest.read_bytes()
    other = job_file.with_name("other.toml")
    other.write_text(JOB.replace('"tiny"', '"other"'))
    start(other)
    manifest.write_bytes((manifest.parents[1] / "other" / manifest.name).read_bytes())
    said = "is not the manifest that this run was started with.* has other job.name"
    with pytest.raises(DigestMismatchError, match=said):
        start(job_file, resume=True)
    manifest.write_bytes(own)
    start(job_file, resume=True)


def test_results_of_a_run_that_got_nowhere(tmp_path: Path) -> None:
    """No figure is invented, and none is needed to print the rest."""
    folder = write_run(tmp_path / "x", [{"event": "start", "role": "launcher", "time": 1.0}])
    console = Console(file=io.StringIO(), width=100)
    show_results(report.build_summary(folder), folder, folder / "report.html", console)
    assert isinstance(console.file, io.StringIO)
    assert "NOT CONFIDENTIAL" in console.file.getvalue()
