"""``benchmarks/advise.py`` measures the code of today's parties: each kind of piece, tiny."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.benchmarks.scripts import FOLDER, load

SHAPE = {"rows": 2, "length": 8}


@pytest.fixture(scope="module")
def advise() -> ModuleType:
    return load("advise")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": "a patient with fever and cough"}) + "\n")
    path.write_text(path.read_text() * 40)
    return path


@pytest.fixture(autouse=True)
def _no_probe(advise: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"flops": 1e9, "ring": 1e9, "traffic": 1e9}
    monkeypatch.setattr(advise, "probe_both", lambda _: {"cpu": speeds, "wall": speeds})


def test_a_masked_step_is_measured_with_its_accelerator(
    advise: ModuleType, monkeypatch: pytest.MonkeyPatch, deep_llama: Path, text: Path
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(advise, "child", advise.measure)  # in this process: it has torch
    pieces = json.dumps([{"kind": "masked", **SHAPE}])
    options = argparse.Namespace(
        model=str(deep_llama), text=str(text), quick=True, pieces=pieces, run=None
    )
    found = {item.name: item for item in advise.all_items(options)}
    assert found["masked 2x8 bytes"].ratio == 1.0  # exactly what the cost model says
    assert found.keys() >= {"masked 2x8 memory MiB", "masked 2x8 online cpu s"}
    assert all(item.measured > 0 for item in found.values())


@pytest.mark.parametrize(
    ("more", "figures"),
    [
        ({"kind": "bottom", "cut": 2, "form": "bf16"}, {"memory", "bytes", "forward_cpu"}),
        ({"kind": "top", "cut": 2}, {"memory", "step_cpu"}),
        ({"kind": "plain"}, {"memory", "step_cpu"}),
    ],
)
def test_other_pieces_are_measured(
    advise: ModuleType, deep_llama: Path, text: Path, more: dict[str, Any], figures: set[str]
) -> None:
    options = argparse.Namespace(model=str(deep_llama), text=str(text))
    piece = {**SHAPE, **more}
    found = advise.measure(piece, options)
    assert found.keys() >= figures
    items = list(advise.Estimates(options).items(piece, found))
    assert all(item.estimate > 0 for item in items)
