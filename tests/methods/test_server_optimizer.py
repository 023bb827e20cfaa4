"""Server optimizers against the papers' lines, one number after another in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sealtune.errors import ConfigError
from sealtune.job.aggregation_rules import KNOWN_RULES, RuleFacts
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.load import load_job
from sealtune.methods.federated.adapter import pack, unpack
from sealtune.methods.federated.server_optimizer import ServerOptimizer
from tests.methods.rounds import SHAPES, Tensors, tensors
from tests.sample_job import write_job

KINDS = ("fedavgm", "fedadam", "fedyogi")
SMALL = {"a": (3, 4), "b": (40_000,)}  # the second one is longer than a piece


def spec(kind: str, **keys: Any) -> AggregationSpec:
    given = {"server_learning_rate": 0.05, "server_momentum": 0.8, **keys}
    return AggregationSpec.model_validate({"server_optimizer": kind, **given})


def slow(own: AggregationSpec, starts: Tensors, rounds: list[Tensors]) -> dict[str, list[float]]:
    """The adapter after ``rounds`` of mean updates."""
    lr, b1, b2 = own.server_learning_rate, own.server_momentum, own.server_second_momentum
    tau, after = own.server_adaptivity, {}
    assert lr is not None
    for name, tensor in starts.items():
        after[name] = []
        for i, value in enumerate(tensor.ravel().tolist()):
            w, m, v = value, 0.0, tau**2
            for update in rounds:
                d = float(update[name].ravel()[i])
                if own.server_optimizer == "fedavgm":
                    m = b1 * m + d
                    w += lr * m
                    continue
                m = b1 * m + (1 - b1) * d
                if own.server_optimizer == "fedadam":
                    v = b2 * v + (1 - b2) * d * d
                else:
                    v -= (1 - b2) * d * d * math.copysign(1.0, v - d * d)
                w += lr * m / (math.sqrt(v) + tau)
            after[name].append(w)
    return after


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_papers(kind: str) -> None:
    own, start = spec(kind), tensors(0, 0.1, SMALL)
    updates = [tensors(i, 0.01 * i, SMALL) for i in (1, 2, 3)]
    optimizer, now = ServerOptimizer(own, start, {}), start
    for update in updates:
        mean = {n: (now[n].astype(np.float64) + update[n]).astype(np.float32) for n in now}
        now = optimizer.step(now, mean)
    for name, values in slow(own, start, updates).items():
        # what float32 takes from the mean and from what is kept between the rounds
        np.testing.assert_allclose(now[name].ravel(), values, rtol=0, atol=1e-6)
        assert float(np.abs(now[name] - start[name]).max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_from_a_checkpoint_bit_for_bit(kind: str) -> None:
    own, start = spec(kind), tensors(0)
    whole, halves = ServerOptimizer(own, start, {}), ServerOptimizer(own, start, {})
    now = then = start
    for number in (1, 2, 3, 4):
        mean = {n: t + tensors(number, 0.01)[n] for n, t in now.items()}
        now, then = whole.step(now, mean), halves.step(then, mean)
        halves = ServerOptimizer(own, then, unpack(pack(halves.state)))
    assert all(np.array_equal(now[name], then[name]) for name in SHAPES)


def test_a_mean_of_no_movement_moves_nothing_at_first() -> None:
    for kind in KINDS:
        start = tensors(0)
        after = ServerOptimizer(spec(kind), start, {}).step(start, start)
        assert all(np.array_equal(after[name], start[name]) for name in SHAPES)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"server_optimizer": "fedadam"}, "server_learning_rate: is missing: fedadam moves"),
        ({"server_momentum": 0.5}, "server_momentum: is 0.5, which only aggregation.server_opt"),
        (
            {"server_optimizer": "fedavgm", "server_adaptivity": 0.1},
            "server_adaptivity: is 0.1, which only",
        ),
    ],
)
def test_keys_that_nobody_would_read_are_refused(tmp_path: Any, keys: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(write_job(tmp_path, "m", aggregation=keys))
    assert f"aggregation.{words}" in str(caught.value)


def test_a_rule_that_changes_its_basis_takes_no_means_over_rounds(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN_RULES, "turning", RuleFacts(changes_basis=True))
    keys = {"rule": "turning", "server_optimizer": "fedavgm"}
    with pytest.raises(ConfigError, match="the factors stand in another basis after each round"):
        load_job(write_job(tmp_path, "m", aggregation=keys))
