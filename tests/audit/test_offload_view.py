"""Extraction of the adapter: without masks it comes out, with them nothing does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sealtune.audit import offload_view, watched
from sealtune.audit.finding import Verdict
from sealtune.audit.offload_view import ADAPTER_EXTRACTION, regress
from sealtune.audit.subject import Subject
from tests.audit.run_folder import SPLIT, make_run


def quiet(share: float, what: str) -> None:
    assert 0 <= share <= 1


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, deep_llama: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), deep_llama, rows=(120, 24))


def test_the_regression_finds_what_was_put_in() -> None:
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    h, a, weight = normal(300, 40), normal(300, 24), normal(40, 24)
    truth = 0.05 * normal(40, 3) @ normal(3, 24)
    u = 2.0 * h + a @ (weight + truth).T
    scales = normal(3, 300, 1).abs() + 0.1
    found = regress(scales[0] * h, scales[1] * a, scales[2] * u, weight)
    whole = weight + truth
    left = found - truth
    left -= whole * (left * whole).sum() / whole.square().sum()  # q takes this in
    assert left.norm() < 1e-3 * truth.norm()


def test_it_succeeds_without_masks_alone(run_dir: Path) -> None:
    found = {one.variant: one for one in ADAPTER_EXTRACTION.run(Subject(run_dir), quiet)}
    assert {one.verdict for one in found.values()} == {Verdict.HELD}
    assert found["activations of a test"].baseline.value > 0.95
    assert found["one step's gradients"].baseline.value > 0.4


def test_masks_that_are_switched_off_are_seen(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = watched.watched
    monkeypatch.setattr(
        offload_view, "watched", lambda small, job_id, masked: honest(small, job_id, masked=False)
    )
    found = ADAPTER_EXTRACTION.run(Subject(run_dir), quiet)
    assert [one.verdict for one in found] == [Verdict.BROKEN] * 2


def test_other_runs(tmp_path: Path, llama: Path, gpt2: Path) -> None:
    split = Subject(make_run(tmp_path / "split", llama, **SPLIT))
    assert "no accelerator takes part" in ADAPTER_EXTRACTION.applies(split)
    prefix = {"tuning": {"ptuning": {"virtual_tokens": 2}}}
    assert "no LoRA" in ADAPTER_EXTRACTION.applies(
        Subject(make_run(tmp_path / "p", llama, **prefix))
    )
    bare = make_run(tmp_path / "bare", llama, protection={"protect": "insecure-none"})
    assert {one.verdict for one in ADAPTER_EXTRACTION.run(Subject(bare), quiet)} == {Verdict.LIMIT}
    other = make_run(tmp_path / "gpt2", gpt2, tuning={"targets": ["c_attn", "c_proj"]})
    (finding,) = ADAPTER_EXTRACTION.run(Subject(other), quiet)
    assert (finding.variant, finding.verdict) == ("one step's gradients", Verdict.HELD)
