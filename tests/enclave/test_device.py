"""Whole runs on a device that is not the processor, and on CUDA where there is any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sealtune.errors import ConfigError
from sealtune.job.sections import ProtectionSpec
from sealtune.model.compute import Compute, _PlacedTask
from sealtune.model.tasks import Task
from tests.enclave.flow import make_job
from tests.enclave.split_flow import make_split_job
from tests.enclave.test_federation import whole_run
from tests.enclave.test_split import whole_run as whole_split_run

GPU = ProtectionSpec(compute="attested-gpu")


def test_every_tensor_is_on_the_device(llama: Path, tmp_path: Path) -> None:
    """The stand-in refuses what CUDA refuses: a tensor that was left on the processor."""
    command = [sys.executable, "-m", "tests.enclave.device_run", str(llama), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("\n") == 8


def test_whatever_a_task_runs_is_placed() -> None:
    """A method that is not passed on would run a model on a batch that lies elsewhere."""
    named = {name for name in vars(Task) if not name.startswith("_") and callable(vars(Task)[name])}
    assert named == {name for name in vars(_PlacedTask) if not name.startswith("_")}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_nothing_begins() -> None:
    with pytest.raises(ConfigError, match='for a simulated run on the processor: device = "cpu"'):
        Compute.open("cuda", "fp32")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_cuda(llama: Path, tmp_path: Path) -> None:
    for name, make, run in (
        ("federated", make_job, whole_run),
        ("split", make_split_job, whole_split_run),
    ):
        (tmp_path / name).mkdir()
        losses = []
        for protection in (ProtectionSpec(compute="enclave"), GPU):
            job = make(tmp_path / name, llama, protection=protection)
            federation = run(job, tmp_path / f"{name}-{protection.compute}")
            losses.append([event["loss"] for event in federation.of("step")])
        assert losses[1] == pytest.approx(losses[0], abs=1e-3)
