"""Baselines of a job whose sites have ranks of their own."""

from __future__ import annotations

from pathlib import Path

import torch

from sealtune.baseline.workbench import Workbench
from sealtune.job.sections import LoraSpec, TuningSpec
from tests.enclave.flow import make_job

RULE = {"aggregation": {"rule": "exact"}}


def trained(bench: Workbench, site: str) -> dict[str, torch.Tensor]:
    data = bench.sites[site].train
    return bench.train(bench.initial, data, round=1, site=site, steps=3, on_step=lambda _: None)[0]


def test_a_site_of_a_lower_rank_trains_what_a_model_of_that_rank_does(
    llama: Path, tmp_path: Path
) -> None:
    low = make_job(tmp_path, llama, tuning=TuningSpec(lora=LoraSpec(rank=2, alpha=4)))
    spec = LoraSpec(rank=8, alpha=16, ranks={"north": 2})
    job = make_job(tmp_path, llama, tuning=TuningSpec(lora=spec), **RULE)
    bench = Workbench(job)
    expected, found = trained(Workbench(low), "north"), trained(bench, "north")
    for name, tensor in expected.items():
        n, k = tensor.shape
        torch.testing.assert_close(found[name][:n, :k], tensor, rtol=1e-4, atol=1e-6)
        assert found[name].count_nonzero() <= tensor.numel()
    assert all(t.shape == bench.initial[n].shape for n, t in trained(bench, "south").items())
