"""A site that lies to the aggregator: it harms its own round, and nobody else's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save

from sealtune.errors import FrameError, SiteLostError
from sealtune.frames import Frame
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant
from sealtune.job.sections import SitesSpec, TrainSpec
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.rules.fedavg import FedAvg
from sealtune.methods.federated.rules.registry import RULES
from sealtune.party.site_program import Worker
from tests.enclave.flow import Federation, make_federation, make_job, make_spare_job

Lie = Callable[[Frame], Frame]


class Liar:
    """An enclave whose answers to a question to train are somebody else's idea."""

    def __init__(self, honest: Worker, lie: Lie) -> None:
        self._honest = honest
        self._lie = lie

    def answer(self, question: Frame) -> Frame:
        answer = self._honest.answer(question)
        return self._lie(answer) if question.kind == "train" else answer


def run(folder: Path, base: Path, lie: Lie | None, **sections: Any) -> Federation:
    """Three sites; south is the liar."""
    folder.mkdir()
    job = make_spare_job(folder, base, **sections)
    federation = make_federation(job, folder / "run")
    if lie is not None:
        south = federation.sites["south"]
        south._worker = Liar(south._worker, lie)
    federation.run(federation.aggregator())
    return federation


def result(federation: Federation) -> dict[str, np.ndarray[Any, Any]]:
    return load_file(
        federation.run_dir / "sites" / "north" / "adapter" / "adapter_model.safetensors"
    )


def stating(**fields: Any) -> Lie:
    return lambda answer: replace(answer, meta={**answer.meta, **fields})


def sending(change: Callable[[np.ndarray[Any, Any]], Any]) -> Lie:
    def lie(answer: Frame) -> Frame:
        tensors = {
            name: np.asarray(change(t), t.dtype) for name, t in load(bytes(answer.body)).items()
        }
        return replace(answer, body=save(tensors))

    return lie


def altering(change: Callable[[dict[str, np.ndarray[Any, Any]]], Any]) -> Lie:
    return lambda answer: replace(answer, body=save(change(load(bytes(answer.body)))))


def without_one(tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return dict(list(tensors.items())[1:])


def twice(answer: Frame) -> Frame:
    """Two entries of one name, of which a reader might take either."""
    body = bytes(answer.body)
    size = int.from_bytes(body[:8], "little")
    header = body[8 : 8 + size].rstrip()
    entries = json.loads(header)
    name = next(iter(entries.keys() - {"__metadata__"}))
    more = header[:-1] + f", {json.dumps(name)}: {json.dumps(entries[name])}}}".encode()
    return replace(answer, body=len(more).to_bytes(8, "little") + more + body[8 + size :])


def with_metadata(answer: Frame) -> Frame:
    tensors = load(bytes(answer.body))
    return replace(answer, body=save(tensors, metadata={"x": "y" * 500_000}))


def test_rows_are_those_that_were_signed(llama: Path, tmp_path: Path) -> None:
    honest = run(tmp_path / "honest", llama, None)
    liar = run(tmp_path / "liar", llama, stating(examples=(1 << 29) - 1))
    for name, tensor in result(honest).items():
        assert np.array_equal(tensor, result(liar)[name]), name
    for federation in (honest, liar):
        entry = federation.of("round")[1]["sites"]["south"]
        assert entry["examples"] == federation.resolved.manifest.data["south"].train_rows


def deep(answer: Frame) -> Frame:
    nested: list[Any] = []
    for _ in range(900):
        nested = [nested]
    return replace(answer, meta={**answer.meta, "round": nested})


LIES: list[tuple[Lie, str]] = [
    (sending(lambda t: t * 100), "was moved by more than"),
    (sending(lambda t: t + 3), "was moved by more than"),
    (sending(lambda t: np.full_like(t, np.nan)), "was moved by more than"),
    (sending(lambda t: np.full_like(t, -np.inf)), "was moved by more than"),
    (sending(lambda t: np.full_like(t, 9e3)), "was moved by more than"),
    (sending(lambda t: t[:1]), "float32"),
    (sending(lambda t: t * -100), "was moved by more than"),
    (altering(lambda tensors: {n: t.astype(np.float16) for n, t in tensors.items()}), "float16"),
    (altering(without_one), "missing or unknown"),
    (altering(lambda tensors: {**tensors, "more": np.zeros(1, np.float32)}), "missing or unknown"),
    (twice, "not a safetensors file"),
    (with_metadata, "bytes, expected about"),
    (
        lambda answer: replace(answer, body=bytes(answer.body) + bytes(2 << 20)),
        "bytes of body, limit",
    ),
    (lambda answer: replace(answer, body=b"\xff" * 7 + bytes(answer.body)[7:]), "safetensors"),
    (stating(round=77), "another round"),
    (stating(train_loss=float("nan")), "not a finite number"),
    (stating(seconds=[]), "seconds"),
    (stating(frozen_unchanged=False), "frozen weights"),
    (deep, "another round|not a count"),
    (lambda answer: replace(answer, body=b"{}"), "safetensors"),
    (lambda answer: replace(answer, kind="metrics"), "answered with 'metrics'"),
]


def test_a_bad_update_fails_its_site_alone(llama: Path, tmp_path: Path) -> None:
    """In each round another lie."""
    ways = iter(lie for lie, _ in LIES)

    def lie(answer: Frame) -> Frame:
        return next(ways)(answer)

    sections = {"job": {"seed": 3, "rounds": len(LIES)}, "train": TrainSpec(steps_per_round=1)}
    federation = run(tmp_path / "run", llama, lie, **sections)
    events = federation.of("round")[1:]
    assert len(events) == len(LIES)
    for event, (_, words) in zip(events, LIES, strict=True):
        outcomes = {site: entry["outcome"] for site, entry in event["sites"].items()}
        assert outcomes == {"north": "ok", "south": "failed", "west": "ok"}
        assert re.search(words, event["sites"]["south"]["reason"])
    assert federation.of("final")[0]["sites"]["north"]["outcome"] == "ok"


def test_a_bad_answer_is_none_that_a_robust_rule_lacks(llama: Path, tmp_path: Path) -> None:
    """Whatever of it is bad: the update, what is said beside it, or its form."""
    ways = [
        sending(lambda t: t * 100),
        stating(train_loss=float("nan")),
        lambda answer: replace(answer, kind="metrics"),
        deep,
        lambda answer: replace(answer, body=bytes(answer.body) + bytes(2 << 20)),
    ]
    lies = iter(ways)

    def lie(answer: Frame) -> Frame:
        return next(lies)(answer)

    sections = {"job": {"seed": 3, "rounds": len(ways)}, "train": TrainSpec(steps_per_round=1)}
    median = AggregationSpec(rule="median")
    federation = run(tmp_path / "run", llama, lie, aggregation=median, **sections)
    for event in federation.of("round")[1:]:
        assert event["sites"]["south"]["outcome"] == "failed"
        assert event["trained_moved"]


class Flipper:
    """An enclave that goes as far as it was to go, the other way."""

    def __init__(self, honest: Worker) -> None:
        self._honest = honest

    def answer(self, question: Frame) -> Frame:
        answer = self._honest.answer(question)
        if question.kind != "train":
            return answer
        before, after = load(bytes(question.body)), load(bytes(answer.body))
        return replace(answer, body=save({n: 2 * before[n] - t for n, t in after.items()}))


@pytest.mark.parametrize("outliers", ["discount", "report"])
def test_a_site_that_pulls_the_other_way_is_flagged(
    outliers: str, llama: Path, tmp_path: Path
) -> None:
    """And its rows count a sixteenth from the second round on, if the job says so."""
    sections = {
        "aggregation": AggregationSpec(outliers=outliers),
        "privacy": PrivacySpec(),
        "job": {"seed": 3, "rounds": 2},
        "train": TrainSpec(steps_per_round=20, batch_size=20, learning_rate=1e-3),
    }
    names = ("east", "north", "shore", "south", "west")
    sites = SitesSpec(names=names, partition="dirichlet", alpha=100.0)
    job = make_job(tmp_path, llama, sites=sites, **sections)
    federation = make_federation(job, tmp_path / "run")
    south = federation.sites["south"]
    south._worker = Flipper(south._worker)
    counted: list[dict[str, int]] = []

    class Counting(FedAvg):
        def __init__(self, context: RoundContext) -> None:
            super().__init__(context)
            counted.append({})

        def add(self, site: str, update: Tensors, weight: int, /) -> None:
            counted[-1][site] = weight
            super().add(site, update, weight)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RULES, "fedavg", lambda: Counting)
        federation.run(federation.aggregator())
    for event in federation.of("round")[1:]:
        lines = event["sites"]
        assert {s: line["outlier"] for s, line in lines.items()} == {s: s == "south" for s in names}
        # how far is a figure of single updates: it stays inside
        assert not any("agreement" in line for line in lines.values())
    rows = {s: data.train_rows for s, data in federation.resolved.manifest.data.items()}
    later = {**rows, "south": max(1, rows["south"] // 16)} if outliers == "discount" else rows
    assert counted == [rows, later]


def test_what_no_check_foresaw_fails_its_site_alone(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sealtune.methods.federated import adapter

    real = adapter.read_adapter

    def fragile(data: bytes, shapes: Any) -> Any:
        if b"boom" in data:
            raise RecursionError("deep inside a library")
        return real(data, shapes)

    monkeypatch.setattr(adapter, "read_adapter", fragile)
    federation = run(tmp_path / "run", llama, lambda answer: replace(answer, body=b"boom"))
    entry = federation.of("round")[1]["sites"]["south"]
    assert (entry["outcome"], entry["reason"]) == ("failed", "refused: unforeseen RecursionError")
    assert federation.of("round")[2]["sites"]["west"]["outcome"] == "ok"


def test_two_sites_of_one_organisation_are_no_cohort(llama: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from sealtune.cli.signing import propose
    from sealtune.job.proposal import sign, wrap
    from sealtune.plan.resolve import resolve

    job = make_spare_job(tmp_path, llama)
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    clinics, lab = (public_hex(key.public_key()) for key in keys)
    resolution = resolve(job)
    manifest = propose(
        resolution,
        [
            Participant(org="clinics", key=clinics, sites=("north", "south")),
            Participant(org="lab", key=lab, sites=("west",)),
        ],
    )
    assert manifest.min_cohort == 2
    envelope = wrap(manifest)
    for key in keys:
        envelope = sign(envelope, key)
    federation = make_federation(job, tmp_path / "run", envelope)
    with pytest.raises(SiteLostError, match=r"only 2 of 3 .* at least 2 organisations"):
        federation.run(
            federation.aggregator(),
            network=lambda site, _way, _number, body: None if site == "west" else body,
        )
    assert not (tmp_path / "run" / "sites" / "north" / "adapter").exists()


def test_an_outcome_that_nobody_asked_for(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")
    with pytest.raises(FrameError, match="nothing was asked"):
        federation.aggregator().reply("north", b"")
