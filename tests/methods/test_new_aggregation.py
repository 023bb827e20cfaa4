"""A new rule of aggregation: one class, and a line in each of two tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from sealtune.errors import ConfigError, MalformedManifestError
from sealtune.frames import Frame
from sealtune.job.aggregation_rules import KNOWN_RULES, RuleFacts
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.load import load_job
from sealtune.job.manifest import canonical, manifest_bytes, parse_manifest
from sealtune.job.sections import JobSpec, NetworkSpec, TrainSpec
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.rules.registry import RULES
from tests.enclave.flow import Federation, make_federation, make_spare_job
from tests.job.sample import make_manifest
from tests.sample_job import write_job

TRAIN = TrainSpec(steps_per_round=3, batch_size=4, learning_rate=5e-3)
RULE = AggregationSpec(rule="medoid")


class Medoid:
    """The median of each number: one site alone cannot move it."""

    def __init__(self, context: RoundContext) -> None:
        self._before = context.before
        self._updates: list[Tensors] = []

    def add(self, _site: str, update: Tensors, _weight: int, /) -> None:
        self._updates.append(update)

    def result(self) -> Tensors:
        return {
            name: tensor + np.median([update[name] for update in self._updates], axis=0)
            for name, tensor in self._before.items()
        }


@pytest.fixture
def _medoid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN_RULES, "medoid", RuleFacts())
    monkeypatch.setitem(RULES, "medoid", lambda: Medoid)


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
        np.testing.assert_allclose(tensor, np.sort(three, axis=0)[1], rtol=1e-6, atol=1e-8)
    assert any(np.ptp(np.stack([u[n] for u in sent]), axis=0).any() for n in found)


def test_what_is_known_of_a_rule_and_the_rules_themselves_are_the_same() -> None:
    assert KNOWN_RULES.keys() == RULES.keys()


def test_an_unknown_rule_is_refused_wherever_settings_are_read(tmp_path: Path) -> None:
    words = r"(?s)aggregation\.rule.*'medoid', which is none of: .*fedavg"
    file = write_job(tmp_path, "m", aggregation={"rule": "medoid"}, train={"batch_size": "x"})
    with pytest.raises(ConfigError, match=words) as caught:
        load_job(file)
    assert "train.batch_size" in str(caught.value)  # all faults at once
    signed = json.loads(manifest_bytes(make_manifest()))
    signed["settings"]["aggregation"]["rule"] = "medoid"
    with pytest.raises(MalformedManifestError, match=words):
        parse_manifest(canonical(signed))
