"""What an audit reads of a run's folder, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sealtune.audit.subject import Subject
from sealtune.errors import DigestMismatchError, StorageError
from sealtune.model.load import load_model
from sealtune.model.structure import find_blocks
from sealtune.tuning.folder import load_adapter
from tests.audit.run_folder import SPLIT, make_run

SUMS: dict[str, Any] = {
    "job": {"name": "tiny", "trust": "secure-aggregation"},
    "sites": {"names": ["north", "south", "west"]},
    "aggregation": {"norm_bound": "none"},
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, deep_llama: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), deep_llama)


def test_a_federated_run(run_dir: Path) -> None:
    subject = Subject(run_dir)
    assert subject.labels == ("heart", "lung", "skin")
    assert subject.same_code
    assert sorted(subject.sites) == ["north", "south"]
    assert sum(len(data.train) for data in subject.sites.values()) == 60
    assert subject.adapter == run_dir / "adapter"
    load_adapter(subject.adapter)
    assert (subject.blocks, subject.scaled(40)) == (4, 40)
    assert Subject(run_dir, quick=True).scaled(40) == 10


def test_a_miniature_is_the_beginning_of_the_model(run_dir: Path) -> None:
    subject = Subject(run_dir)
    small = subject.miniature(blocks=2, train=10, test=5, tokens=16)
    ours, whole = small.base(), load_model(subject.job.model, 3)
    assert len(find_blocks(ours)[1]) == 2 == ours.config.num_hidden_layers
    theirs = whole.state_dict()
    assert all(
        torch.equal(t, theirs[n]) for n, t in ours.state_dict().items() if not n.startswith("score")
    )
    assert {len(data.train) for data in small.sites.values()} == {10}
    rows = small.sites["north"].train
    assert set(rows) <= set(subject.sites["north"].train)
    texts = small.texts(rows)
    assert max(texts.lengths) <= 16
    assert {group.name.split(".")[2] for group in small.plan.groups} == {"0", "1"}
    loss = small.task.loss(small.tuned(), texts.batch(range(4)))
    loss.backward()
    again = subject.miniature(blocks=2, train=10, test=5, tokens=16)
    assert again.sites == small.sites
    whole_of_it = subject.miniature(blocks=9)
    assert whole_of_it.job.model == subject.job.model


@pytest.mark.parametrize("method", ["split", "sums", "ptuning"])
def test_other_methods(tmp_path: Path, deep_llama: Path, method: str) -> None:
    own = {
        "split": {**SPLIT, "tuning": {"spf": {"layers": [2, 3]}, "lora": {"layers": [3]}}},
        "sums": SUMS,
        "ptuning": {"tuning": {"ptuning": {"virtual_tokens": 2}}},
    }[method]
    subject = Subject(make_run(tmp_path, deep_llama, **own))
    small = subject.miniature(blocks=3)
    if method == "split":
        assert small.job.split is not None
        assert small.job.split.cut == 1
        assert small.job.tuning.spf is not None
        assert small.job.tuning.spf.layers == (1, 2)  # the last two, as in the run
    batch = small.texts(next(iter(small.sites.values())).train).batch(range(4))
    small.task.loss(small.tuned(), batch).backward()
    assert subject.adapter is not None


def test_rows_and_models_that_were_not_signed_are_refused(tmp_path: Path, llama: Path) -> None:
    run_dir = make_run(tmp_path, llama)
    rows = tmp_path / "train.jsonl"
    rows.write_text(rows.read_text().replace("acute", "chronic"))
    with pytest.raises(DigestMismatchError, match="not what was signed"):
        _ = Subject(run_dir).sites
    for party in (run_dir / "parties").glob("site-*"):
        party.unlink()
    with pytest.raises(StorageError, match="names no site's rows"):
        Subject(run_dir)
    with pytest.raises(StorageError, match="holds no"):
        Subject(tmp_path)
