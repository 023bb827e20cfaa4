from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sealtune.baseline import KINDS, run
from sealtune.baseline.workbench import Workbench, weighted_mean
from sealtune.errors import ConfigError, StorageError
from tests.enclave.flow import SITES, make_federation, make_job

KEYS = {
    "kind", "accuracy_before", "accuracy_after", "accuracy_own_rows", "per_site", "loss_curve",
    "seconds", "seed", "steps", "versions",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_its_figures(llama: Path, tmp_path: Path, kind: str) -> None:
    job = make_job(tmp_path, llama)
    result = run(job, kind, tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    path = tmp_path / "run" / "baselines" / f"{kind}.json"
    assert json.loads(path.read_text()) == result
    assert set(result) == KEYS
    assert result["kind"] == kind
    assert set(result["per_site"]) == set(SITES)
    assert len(result["loss_curve"]) == job.job.rounds
    assert 0 <= result["accuracy_after"] <= 1
    assert result["steps"] == 2 * 3 * 2


def test_accuracy_is_over_all_test_rows_together(llama: Path, tmp_path: Path) -> None:
    result = run(make_job(tmp_path, llama), "pooled", tmp_path, quiet=True)
    right = sum(v["accuracy"] * v["total"] for v in result["per_site"].values())
    total = sum(v["total"] for v in result["per_site"].values())
    assert total == 24
    assert result["accuracy_after"] == pytest.approx(right / total)


def test_local_is_the_mean_of_the_sites_own_adapters_on_all_rows(
    llama: Path, tmp_path: Path
) -> None:
    result = run(make_job(tmp_path, llama), "local", tmp_path, quiet=True)
    own = [site["accuracy_all_rows"] for site in result["per_site"].values()]
    assert result["accuracy_after"] == pytest.approx(sum(own) / 2)
    right = sum(v["accuracy"] * v["total"] for v in result["per_site"].values())
    assert result["accuracy_own_rows"] == pytest.approx(right / 24)


def test_a_joint_adapter_has_one_accuracy_in_both_views(llama: Path, tmp_path: Path) -> None:
    result = run(make_job(tmp_path, llama), "plain-federated", tmp_path, quiet=True)
    assert result["accuracy_after"] == result["accuracy_own_rows"]
    assert {v["accuracy_all_rows"] for v in result["per_site"].values()} == {
        result["accuracy_after"]
    }


def test_steps_that_a_site_makes_alone_are_made_by_baselines_too(
    llama: Path, tmp_path: Path
) -> None:
    job = make_job(tmp_path, llama, aggregation={"personal_steps": 4})
    for kind, steps in (("local", 2 * (6 + 4)), ("pooled", 2 * (6 + 4)), ("plain-federated", 12)):
        result = run(job, kind, tmp_path / "run", quiet=True)  # type: ignore[arg-type]
        assert result["steps"] == steps
        assert len(result["loss_curve"]) == 2


def test_plain_federated_keeps_personal_parts_and_asks_who_the_run_asks(
    llama: Path, tmp_path: Path
) -> None:
    sections = {"sites": {"names": ["north", "south", "west"], "alpha": 5.0}}
    settings = {"personal": ["head"], "participation": 0.6, "proximal": 0.1}
    job = make_job(tmp_path, llama, aggregation=settings, **sections)
    federation = make_federation(job, tmp_path / "run")
    federation.run(federation.aggregator())
    result = run(job, "plain-federated", tmp_path / "run", quiet=True)
    final = federation.of("final")[0]["sites"]
    assert result["steps"] == len(federation.of("step"))
    for site, scores in result["per_site"].items():
        # int8 and float32 weights may answer a row near the border differently
        assert abs(scores["accuracy"] * scores["total"] - final[site]["correct"]) <= 2
    assert len({v["accuracy_all_rows"] for v in result["per_site"].values()}) > 1


def test_own_adapters_of_a_run_are_tested_beside_local(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, aggregation={"personal_steps": 4})
    federation = make_federation(job, tmp_path / "run")
    federation.run(federation.aggregator())
    own = run(job, "local", tmp_path / "run", quiet=True)["personal"]
    told = {e["role"].removeprefix("client:"): e for e in federation.of("personal")}
    for site, scores in own["per_site"].items():
        assert scores["total"] == told[site]["total"]
        assert abs(scores["accuracy"] * scores["total"] - told[site]["correct"]) <= 2
        assert 0 <= scores["accuracy_all_rows"] <= 1
    assert "personal" not in run(job, "pooled", tmp_path / "run", quiet=True)


def test_a_baseline_repeats(llama: Path, tmp_path: Path) -> None:
    one, two = (
        run(make_job(tmp_path, llama), "plain-federated", tmp_path, quiet=True) for _ in range(2)
    )
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_mean_is_weighted(llama: Path, tmp_path: Path) -> None:
    state = Workbench(make_job(tmp_path, llama)).initial
    other = {name: tensor + 4 for name, tensor in state.items()}
    mean = weighted_mean([state, other], [3, 1])
    assert all((mean[name] - tensor - 1).abs().max() < 1e-6 for name, tensor in state.items())


def test_unknown_kind(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'none' is not one of local, pooled, plain-federated"):
        run(make_job(tmp_path, llama), "none", tmp_path)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="finds none here"):
        run(make_job(tmp_path, llama), "pooled", tmp_path, quiet=True, device="cuda")


def test_a_file_in_the_way(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "baselines").write_text("mine")
    with pytest.raises(StorageError):
        run(make_job(tmp_path, llama), "pooled", tmp_path, quiet=True)
