"""``benchmarks/offload_slalom.py``: the other scheme is right, and refuses what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from sealtune.offload.pads import PadStream
from tests.benchmarks.scripts import FOLDER, load


@pytest.fixture(scope="module")
def slalom() -> ModuleType:
    return load("offload_slalom")


def test_it_prints_both_ways_and_their_errors() -> None:
    sizes = ["--tokens", "9", "--hidden", "64", "--kv", "16", "--mlp", "96", "--layers", "1"]
    command = [sys.executable, str(FOLDER / "offload_slalom.py"), *sizes, "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["slalom_speedup"] > 0
    assert found["rounds"] == 3
    assert found["error"]["slalom"] < 5e-3
    assert found["error"]["ours"] < 1e-4


def test_its_products_are_exact_in_the_field(slalom: ModuleType) -> None:
    torch.manual_seed(3)
    matrix = torch.randint(-128, 128, (5000, 300), dtype=torch.int8)
    way = slalom.Slalom(slalom.Product(torch.randn(70, 5000), matrix), PadStream("test"))
    codes = torch.randint(slalom.P, (70, 5000), dtype=torch.int32)
    codes[0] = slalom.P - 1
    expected = (codes.to(torch.int64) @ matrix.to(torch.int64)) % slalom.P
    assert torch.equal(way._multiply(codes).to(torch.int64), expected)


def test_a_wrong_product_is_refused(slalom: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(4)
    matrix = torch.randint(-128, 128, (40, 30), dtype=torch.int8)
    way = slalom.Slalom(slalom.Product(torch.randn(8, 40), matrix), PadStream("test"))
    way.prepare()
    true = way._multiply

    def lies(codes: Tensor) -> Tensor:
        answer: Tensor = true(codes)
        answer[3, 3] = (answer[3, 3] + 1) % slalom.P
        return answer

    way.online()
    way.prepare()
    monkeypatch.setattr(way, "_multiply", lies)
    with pytest.raises(RuntimeError, match="wrong"):
        way.online()
