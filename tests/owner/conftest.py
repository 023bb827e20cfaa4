from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.job.spec import ModelSpec
from sealtune.model import cut_chunk
from tests.enclave.split_flow import SplitFederation, make_split, make_split_job


@pytest.fixture(scope="module")
def classes(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> SplitFederation:
    """Two sites of a classification job, as they start."""
    folder = tmp_path_factory.mktemp("classes")
    return make_split(make_split_job(folder, llama), folder / "run")


@pytest.fixture(scope="module")
def language(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> SplitFederation:
    """Two sites of a causal-lm job, as they start."""
    folder = tmp_path_factory.mktemp("language")
    model = ModelSpec(path=str(llama), task="causal-lm")
    return make_split(make_split_job(folder, llama, model=model), folder / "run")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a tiny site has several."""
    monkeypatch.setattr(cut_chunk, "CHUNK", 16_000)
