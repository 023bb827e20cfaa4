"""Removing a split job's sealed activations: when they are needed no more, and then all of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.errors import StorageError
from sealtune.launch import prepare
from sealtune.launch.metrics import MetricsLog


def sign(folder: Path, method: str) -> None:
    """As much of a manifest as is looked at."""
    payload = base64.b64encode(json.dumps({"settings": {"job": {"method": method}}}).encode())
    envelope = {"payload": payload.decode(), "signatures": []}
    (folder / "job.manifest.json").write_text(json.dumps(envelope))


def run_folder(folder: Path, *, method: str = "split", outcome: str | None = "ok") -> Path:
    store = folder / "state" / "activations" / "north"
    store.mkdir(parents=True)
    (store / "0.sealed").write_bytes(bytes(1000))
    (store / "1.sealed").write_bytes(bytes(500))
    (folder / "state" / "checkpoint.sealed").write_bytes(b"checkpoint")
    sign(folder, method)
    events = [{"event": "start"}, *([{"event": "end", "outcome": outcome}] if outcome else [])]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return folder


def clean(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["clean", *map(str, words)])
    return result.exit_code, result.output


def test_a_finished_runs_activations_go_and_nothing_else(tmp_path: Path) -> None:
    code, said = clean(run_folder(tmp_path / "run"))
    assert (code, "removed 2 files" in said) == (0, True)
    left = sorted(p.relative_to(tmp_path / "run").as_posix() for p in tmp_path.rglob("*.*"))
    assert left == ["job.manifest.json", "metrics.jsonl", "state/checkpoint.sealed"]
    assert clean(tmp_path / "run")[0] == 0  # again is no fault


@pytest.mark.parametrize("outcome", ["failed", "interrupted", None])
def test_an_unfinished_run_keeps_what_it_needs_to_go_on(
    tmp_path: Path, outcome: str | None
) -> None:
    folder = run_folder(tmp_path / "run", outcome=outcome)
    code, said = clean(folder)
    assert (code, "has not finished" in said) == (9, True)
    assert (folder / "state" / "activations" / "north" / "0.sealed").exists()
    assert clean(folder, "--unfinished")[0] == 0
    assert not (folder / "state" / "activations").exists()


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", method="federated-lora")
    assert clean(folder)[0] == 2
    assert clean(tmp_path)[0] == 9
    elsewhere = tmp_path / "elsewhere"
    (folder / "state" / "activations").rename(elsewhere)
    (folder / "state" / "activations").symlink_to(elsewhere)
    sign(folder, "split")
    assert clean(folder)[0] == 9
    assert (elsewhere / "north" / "0.sealed").exists()


def test_a_run_that_is_going_on_is_left_alone(tmp_path: Path) -> None:
    """Neither removed under its feet, nor started over, nor run twice at once."""
    folder = run_folder(tmp_path / "run", outcome=None)
    log = MetricsLog(folder / "metrics.jsonl")
    code, said = clean(folder, "--unfinished")
    assert (code, "a run is going on" in said) == (9, True)
    assert (folder / "state" / "activations" / "north" / "0.sealed").exists()
    with pytest.raises(StorageError, match="a run is going on"):
        prepare(folder, force=True)
    with pytest.raises(StorageError, match="a run is going on"):
        MetricsLog(folder / "metrics.jsonl")
    log.close()
    assert clean(folder, "--unfinished")[0] == 0
