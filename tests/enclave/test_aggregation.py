"""What the aggregator makes of updates in whole runs: clipping, and optimizers of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from sealtune.frames import Frame
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.sections import JobSpec
from sealtune.methods.federated.adapter import write_adapter
from sealtune.methods.federated.update_bound import UpdateBound
from sealtune.model.trainable import trainable_state
from tests.enclave.flow import Federation, make_federation, make_job, make_spare_job

Adapter = dict[str, np.ndarray]
ADAM = AggregationSpec(server_optimizer="fedadam", server_learning_rate=0.003)


def released(federation: Federation, site: str = "north") -> Adapter:
    folder = federation.run_dir / "sites" / site / "adapter"
    return load_file(folder / "adapter_model.safetensors")


def listen(federation: Federation, attack: dict[str, float]) -> dict[str, tuple[Adapter, Adapter]]:
    """Site -> what it was sent and what it sent, as it will be.

    Args:
        attack: site -> where it says that training took every number, within what it may be.
    """
    heard: dict[str, tuple[Adapter, Adapter]] = {}
    for name, site in federation.sites.items():
        honest = site._worker.answer

        def answer(question: Frame, name: str = name, honest=honest) -> Frame:  # type: ignore[no-untyped-def]
            reply: Frame = honest(question)
            if question.kind == "train":
                before, after = load(bytes(question.body)), load(bytes(reply.body))
                if name in attack:
                    after = {n: t + np.float32(attack[name]) for n, t in before.items()}
                    reply = replace(reply, body=write_adapter(after))
                heard[name] = before, after
            return reply

        site._worker.answer = answer  # type: ignore[method-assign]
    return heard


@pytest.mark.parametrize("bound", ["auto", "none", 0.05])
def test_an_update_that_is_too_long_is_clipped(
    llama: Path, tmp_path: Path, bound: str | float
) -> None:
    """South says that every number went as far as AdamW's worst case lets it."""
    aggregation = AggregationSpec.model_validate({"norm_bound": bound})
    job = make_spare_job(
        tmp_path,
        llama,
        job=JobSpec(name="tiny", rounds=1),
        aggregation=aggregation,
        privacy=PrivacySpec(site_metrics=True),
    )
    federation = make_federation(job, tmp_path / "run")
    rows = {s: d.train_rows for s, d in federation.resolved.manifest.data.items()}
    steps = [1.0] * job.train.steps(rows["south"])
    far = UpdateBound(job.train, job.tuning, steps).limits({"any": 0.0})["any"]
    heard = listen(federation, {"south": -0.98 * far})
    federation.run(federation.aggregator())
    event = federation.of("round")[1]
    total: dict[str, np.ndarray] = {}
    clipped = set()
    for site, (before, after) in heard.items():
        delta = {n: (t - before[n]).astype(np.float64) for n, t in after.items()}
        size = sum(t.size for t in delta.values())
        norm = math.sqrt(sum(float((t**2).sum()) for t in delta.values()))
        most = {
            "auto": job.train.learning_rate * job.train.steps(rows[site]) * math.sqrt(size),
            "none": math.inf,
        }.get(str(bound), bound)
        assert isinstance(most, float)
        if norm > most:
            clipped.add(site)
        for name, tensor in delta.items():
            share = rows[site] / sum(rows.values()) * min(1.0, most / norm)
            total[name] = total.get(name, 0) + share * tensor
    for name, tensor in released(federation).items():
        expected = heard["north"][0][name] + total[name]
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-7)
    named = {site for site, one in event["sites"].items() if one["clipped"]}
    assert named == clipped == {"auto": {"south"}, "none": set()}.get(str(bound), set(rows))
    assert event["clipped"] == len(clipped)
    assert event.get("norm_ratio") == (1 if bound == "auto" else None)


def test_the_majority_sets_the_next_bound(llama: Path, tmp_path: Path) -> None:
    job = make_spare_job(tmp_path, llama, privacy=PrivacySpec())
    federation = make_federation(job, tmp_path / "run")
    heard = listen(federation, {"south": 0.1})
    federation.run(federation.aggregator())
    honest, attacked = (e["norm_ratio"] for e in federation.of("round")[1:])
    assert honest == 1
    assert 0 < attacked < 1.6  # 1.5 times an honest site's, and south's was beyond 6
    assert len(heard) == 3
    assert "clipped" not in federation.of("round")[1]["sites"]["south"]  # one site's own figure


def test_sites_begin_with_what_the_aggregator_draws(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, job=JobSpec(name="tiny", seed=3, rounds=1))
    federation = make_federation(job, tmp_path / "run")
    own = {n: t.numpy().copy() for n, t in trainable_state(federation.models["north"]).items()}
    heard = listen(federation, {})
    federation.run(federation.aggregator())
    sent = heard["north"][0]
    assert sent.keys() == own.keys()
    assert all(np.array_equal(sent[name], tensor) for name, tensor in own.items())


@pytest.mark.parametrize("exchanges", [4, 5])
def test_a_resumed_run_keeps_bounds_and_means(llama: Path, tmp_path: Path, exchanges: int) -> None:
    sections = {"aggregation": ADAM, "job": JobSpec(name="tiny", rounds=3)}
    job = make_job(tmp_path, llama, **sections)
    straight = make_federation(job, tmp_path / "straight")
    straight.run(straight.aggregator())
    broken = make_federation(job, tmp_path / "broken")
    broken.run(broken.aggregator(), exchanges=exchanges)
    resumed = make_federation(job, tmp_path / "broken")
    resumed.run(resumed.aggregator(resume=True))
    for site in ("north", "south"):
        expected, found = released(straight, site), released(resumed, site)
        assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())
    ratios = [
        [event["norm_ratio"] for event in one.of("round") if event["round"]]
        for one in (straight, resumed)
    ]
    assert ratios[0][-len(ratios[1]) :] == ratios[1]
    plain = make_federation(
        job.model_copy(update={"aggregation": AggregationSpec()}), tmp_path / "p"
    )
    plain.run(plain.aggregator())
    assert any((released(plain)[n] != t).any() for n, t in released(straight).items())
