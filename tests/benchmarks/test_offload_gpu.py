"""``benchmarks/offload.py --gpu`` on a machine that has little: with ``--tiny``, on a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED = (
    "torch", "transformers", "peft", "pydantic", "cryptography", "rfc8785", "numpy", "safetensors",
)  # fmt: skip
# Python runs this at its start, in every process of the benchmark. Others' packages import what
# they like: they would not be there without it.
REFUSES = f"""
import sys

OURS = ({str(ROOT / "src")!r}, {str(ROOT / "benchmarks")!r})
LISTED = {{"sealtune", *{LISTED!r}, *sys.stdlib_module_names}}

class Refuses:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        file = frame.f_code.co_filename if frame is not None else ""
        if file.startswith(OURS) and top not in LISTED and not top.startswith("offload"):
            raise ImportError(f"{{file}} imports {{name}}, which a bare machine may lack")
        return None

sys.meta_path.insert(0, Refuses)
"""


def run(folder: Path, *options: str) -> dict[str, object]:
    """The benchmark's JSON line."""
    (folder / "sitecustomize.py").write_text(REFUSES)
    command = [sys.executable, "benchmarks/offload.py", "--gpu", "--tiny", "--json", *options]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_hook_refuses_what_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(REFUSES)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "import sealtune.advise.equipment"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "imports psutil, which a bare machine may lack" in done.stderr


@pytest.mark.timeout(900)
def test_every_figure_of_a_gpu_with_listed_packages_alone(tmp_path: Path) -> None:
    found = run(tmp_path)
    assert found["missing"] == {}
    assert found["gpu_shapes_wrong"] == 0
    ratios = [
        f"gpu_{what}_{name}" for what in ("speedup", "total_speedup") for name in ("1b", "8b")
    ]
    assert all(found[key] for key in (*ratios, "gpu_attested_ratio"))
