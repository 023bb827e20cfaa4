"""A new aggregation in one file: this one. No other file knows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from sealtune.errors import ConfigError
from sealtune.frames import Frame
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.sections import JobSpec, NetworkSpec, TrainSpec
from sealtune.methods.federated.adapter import Shapes, Tensors
from sealtune.methods.federated.aggregation import AGGREGATIONS, aggregation
from tests.enclave.flow import Federation, make_federation, make_job, make_spare_job

TRAIN = TrainSpec(steps_per_round=3, batch_size=4, learning_rate=5e-3)
RULE = AggregationSpec(rule="medoid")


class Medoid:
    """The median of each number: one site alone cannot move it."""

    def __init__(self, shapes: Shapes) -> None:
        self._updates: list[Tensors] = []

    def add(self, _site: str, tensors: Tensors, _weight: int, /) -> None:
        self._updates.append(tensors)

    def result(self) -> Tensors:
        names = self._updates[0]
        return {n: np.median([u[n] for u in self._updates], axis=0) for n in names}


@pytest.fixture
def _medoid() -> Iterator[None]:
    aggregation("medoid")(Medoid)
    yield
    del AGGREGATIONS["medoid"]


def updates_of(federation: Federation) -> list[dict[str, np.ndarray]]:
    """What the sites answer questions to train with, as it will be."""
    sent: list[dict[str, np.ndarray]] = []
    for site in federation.sites.values():
        honest = site._worker.answer

        def answer(question: Frame, honest=honest) -> Frame:  # type: ignore[no-untyped-def]
            reply: Frame = honest(question)
            if question.kind == "train":
                sent.append(load(bytes(reply.body)))
            return reply

        site._worker.answer = answer  # type: ignore[method-assign]
    return sent


@pytest.mark.usefixtures("_medoid")
def test_a_run_with_it(llama: Path, tmp_path: Path) -> None:
    job = make_spare_job(tmp_path, llama).model_copy(
        update={
            "train": TRAIN,
            "aggregation": RULE,
            "network": NetworkSpec(),
            "job": JobSpec(name="tiny", rounds=1),
        }
    )
    federation = make_federation(job, tmp_path / "run")
    sent = updates_of(federation)
    federation.run(federation.aggregator())
    released = federation.run_dir / "sites" / "north" / "adapter" / "adapter_model.safetensors"
    found = load_file(released)
    assert len(sent) == 3
    for name, tensor in found.items():
        three = np.stack([update[name] for update in sent])
        assert np.array_equal(tensor, np.sort(three, axis=0)[1]), name
    assert any(np.ptp(np.stack([u[n] for u in sent]), axis=0).any() for n in found)


def test_without_it_the_job_does_not_start(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, train=TRAIN).model_copy(update={"aggregation": RULE})
    federation = make_federation(job, tmp_path / "run")
    with pytest.raises(ConfigError, match="'medoid', which is none of: fedavg"):
        federation.aggregator()
