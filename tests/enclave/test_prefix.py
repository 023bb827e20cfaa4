"""What a site's enclave keeps of the blocks below the first tuned one: right, sealed, its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sealtune.accelerator.engine import Engine
from sealtune.baseline.workbench import Workbench
from sealtune.errors import StorageError
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import LoraSpec, ProtectionSpec, TrainSpec, TuningSpec
from sealtune.methods.federated import prefixed_texts
from sealtune.methods.federated.prefixed_texts import PrefixedTexts, PrefixStore
from sealtune.model.compute import Compute
from sealtune.model.cut_chunk import Layout
from sealtune.model.frozen_prefix import FrozenPrefix
from sealtune.model.texts import padded
from sealtune.model.training import evaluate
from tests.enclave.flow import SITES, make_federation, make_job
from tests.enclave.test_federation import (
    adapter_file,
    int8_workbench,
    plain_federated,
    whole_run,
)
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.tiny import make_texts

UPPER = TuningSpec(lora=LoraSpec(rank=4, layers=(1,)))


def without_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans say that no block is steady."""
    for planner in ("masked", "whole"):
        monkeypatch.setattr(f"sealtune.plan.{planner}.steady_blocks", lambda *_: 0)


def close_to(found: Path, expected: dict[str, torch.Tensor], start: dict[str, Any]) -> bool:
    got = load_file(found)
    moved = max(float((expected[n] - start[n]).abs().max()) for n in got)
    return max(float((t - expected[n]).abs().max()) for n, t in got.items()) < 0.05 * moved


@pytest.mark.parametrize("protect", ["adapter+data", "adapter", "insecure-none"])
def test_a_run_gives_what_it_gives_without(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protect: str
) -> None:
    protection = ProtectionSpec.model_validate({"protect": protect})
    more = {"protection": protection, "aggregation": {"personal_steps": 3}}
    job = make_job(tmp_path, llama, tuning=UPPER, **more)
    kept = whole_run(job, tmp_path / "kept")
    assert kept.resolved.plan.steady_blocks == 1
    with monkeypatch.context() as patch:
        without_store(patch)
        plain = whole_run(job, tmp_path / "plain")
        bench = int8_workbench(job)
        expected = plain_federated(bench, job)
    for site in SITES:
        found, other = (load_file(adapter_file(run, site)) for run in (kept, plain))
        worst = max(float((found[n] - other[n]).abs().max()) for n in found)
        assert worst < 0.02 * max(float((other[n] - bench.initial[n]).abs().max()) for n in found)
        assert close_to(adapter_file(kept, site), expected, bench.initial)
        exported = kept.of("exported", f"client:{site}")
        assert all(event["agreement"] == 1 for event in exported)
    ended = [run.of("final")[0]["sites"] for run in (kept, plain)]
    for site in SITES:
        assert ended[0][site]["correct"] == ended[1][site]["correct"]
        assert ended[0][site]["loss"] == pytest.approx(ended[1][site]["loss"], rel=1e-4)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool]]:
    """Every masked product of all sites: group, rows, backward."""
    seen: list[tuple[str, int, bool]] = []
    product = Engine.product

    def watched(self: Engine, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
        seen.append((group, len(codes), backward))
        return product(self, group, codes, backward=backward)

    monkeypatch.setattr(Engine, "product", watched)
    return seen


def rows_in(calls: list[tuple[str, int, bool]], block: int, *, backward: bool) -> int:
    """Rows of the first group of a block."""
    return sum(
        n
        for g, n, way in calls
        if g.endswith(f"layers.{block}.self_attn.q_proj") and way == backward
    )


def test_a_text_goes_through_the_lower_blocks_once(
    llama: Path, tmp_path: Path, calls: list[tuple[str, int, bool]]
) -> None:
    """The accelerator is asked for no product of a block whose result is kept."""
    job = make_job(tmp_path, llama, tuning=UPPER, job={"seed": 3, "rounds": 6})
    federation = make_federation(job, tmp_path / "run")
    assert not calls  # nothing is computed before a server that has proven itself asks
    federation.run(federation.aggregator())
    once = 0
    for site in SITES:
        texts = federation.sites[site]._worker._data  # type: ignore[attr-defined]
        once += sum(padded(n) for part in (texts.train, texts.test) for n in part.lengths)
    lower, upper = (rows_in(calls, block, backward=False) for block in (0, 1))
    assert lower <= 1.5 * once  # padding differs from batch to batch
    assert upper > 2 * lower
    assert rows_in(calls, 0, backward=True) == 0


def test_what_is_kept_is_sealed_and_gone_in_the_end(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds the state folder finds neither activations nor a key to them."""
    made: list[bytes] = []
    pack = prefixed_texts.pack
    monkeypatch.setattr(
        prefixed_texts, "pack", lambda *given: made.append(pack(*given)) or made[-1]
    )
    job = make_job(tmp_path, llama, tuning=UPPER)
    federation = make_federation(job, tmp_path / "run")
    server = federation.aggregator()
    federation.run(server, exchanges=4)
    server.next()  # takes round 1's result, and keeps it
    folder = federation.run_dir / "sites" / "north" / "state" / "prefix"
    files = [path.read_bytes() for path in folder.rglob("*.sealed")]
    assert len(made) > 20
    assert sum(map(len, files)) >= sum(map(len, made)) / 2  # north's are there ...
    everything = b"".join(p.read_bytes() for p in federation.run_dir.rglob("*") if p.is_file())
    assert not any(data[i : i + 32] in everything for data in made for i in (0, len(data) // 2))
    federation.start_site("north")  # a fresh start has another key, and deletes what it cannot read
    assert not list(folder.rglob("*.sealed"))
    federation.run(federation.aggregator(resume=True))
    assert not list(federation.run_dir.rglob("prefix"))


def store(folder: Path) -> PrefixStore:
    layout = Layout("fp32", 64, 24, 3, 300)
    return PrefixStore(folder, bytes(48), layout)


def kept_rows(llama: Path, folder: Path) -> tuple[PrefixedTexts, Any, Any]:
    model, task = adapted(llama, layers=(1,)), task_of(llama)
    texts = task.encode(make_texts(12, 3))
    rows = PrefixedTexts(texts, "train", FrozenPrefix(model, 1, Compute()), store(folder))
    return rows, model, task


@pytest.mark.parametrize("attack", ["flip", "swap", "cut", "delete"])
def test_a_file_that_was_meddled_with_is_noticed(llama: Path, tmp_path: Path, attack: str) -> None:
    rows, _, _ = kept_rows(llama, tmp_path / "prefix")
    first = rows.batch([0, 1]).activations
    rows.batch([2, 3])
    assert torch.equal(rows.batch([0, 1]).activations, first)
    one, two = sorted((tmp_path / "prefix").rglob("*.sealed"))
    data = bytearray(one.read_bytes())
    if attack == "flip":
        data[-40] ^= 1
    elif attack == "swap":
        data = bytearray(two.read_bytes())
    elif attack == "cut":
        data = data[: len(data) // 2]
    one.write_bytes(data)
    if attack == "delete":
        one.unlink()
    with pytest.raises(StorageError):
        rows.batch([0, 1])


def test_no_space_costs_time_and_nothing_else(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, model, task = kept_rows(llama, tmp_path / "kept")
    expected = evaluate(model, task, rows, batch_size=4)
    full = SimpleNamespace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    rows, model, task = kept_rows(llama, tmp_path / "full")
    for _ in range(2):
        assert evaluate(model, task, rows, batch_size=4) == expected
    assert not list((tmp_path / "full").rglob("*.sealed"))


@pytest.mark.parametrize("room", [True, False])
def test_secretly_drawn_rows_do_not_show_in_the_calls(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    calls: list[tuple[str, int, bool]], room: bool,
) -> None:  # fmt: skip
    """Which rows of a step are new would tell an accelerator who was drawn before: with noise for
    single rows, all go through the lower blocks before the first step, or all of each step.
    """
    if not room:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    privacy = PrivacySpec(unit="example", epsilon=8.0)
    train = TrainSpec(steps_per_round=2, batch_size=8, learning_rate=5e-3)
    job = make_job(tmp_path, llama, tuning=UPPER, privacy=privacy, train=train)
    federation = make_federation(job, tmp_path / "run")
    before = rows_in(calls, 0, backward=False)
    assert before > 0
    federation.run(federation.aggregator(), exchanges=3)  # evaluation
    tested = rows_in(calls, 0, backward=False)
    calls_before = len(calls)
    federation.run(federation.aggregator(), exchanges=6)
    step = calls[calls_before:]
    lower, upper = (rows_in(step, block, backward=False) for block in (0, 1))
    if room:
        assert tested > before
        assert lower < 0.7 * upper  # tests alone, of two runs of the server
    else:
        assert lower == upper


def test_a_baseline_keeps_them_as_well(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, llama, tuning=UPPER)
    found = plain_federated(kept := Workbench(job), job)
    answers = kept.test(found)
    with monkeypatch.context() as patch:
        without_store(patch)
        expected = plain_federated(bench := Workbench(job), job)
        plain = bench.test(expected)
    assert (kept._first, bench._first) == (1, 0)
    for name, tensor in found.items():
        moved = float((expected[name] - bench.initial[name]).abs().max())
        assert float((tensor - expected[name]).abs().max()) < 0.02 * moved
    for site in SITES:
        assert answers[site].correct == plain[site].correct
        assert answers[site].loss == pytest.approx(plain[site].loss, rel=1e-4)
