"""``exact`` against averaging merged weights in float64, with sites of different ranks."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from sealtune.errors import ModelError, StorageError
from sealtune.methods.federated.adapter import Shapes, write_adapter
from sealtune.methods.federated.ranks import factor_pairs, first_directions, shapes_at
from sealtune.methods.federated.rules.exact import Exact
from sealtune.methods.federated.rules.fedavg import FedAvg
from tests.methods.rounds import Tensors, context, tensors

Q, V = "m.0.q_proj.lora_{}.weight", "m.1.v_proj.lora_{}.weight"
RANK, N, K = 16, 24, 40
SHAPES: dict[str, tuple[int, ...]] = {
    Q.format("A"): (RANK, K),
    Q.format("B"): (N, RANK),
    V.format("A"): (RANK, N),
    V.format("B"): (K, RANK),
    "m.score.weight": (3, 40),
}
RANKS = {"north": 4, "south": 8, "west": 16}
ROWS = {"north": 100, "south": 30, "west": 57}


def start(*, trained: bool = True) -> Tensors:
    """A global adapter; before round 1 every B is 0."""
    before = tensors(0, 0.3, SHAPES)
    return before if trained else {n: t * (".lora_B." not in n) for n, t in before.items()}


def updates(scale: float = 0.1) -> dict[str, Tensors]:
    return {
        site: tensors(number, scale, shapes_at(SHAPES, rank))
        for number, (site, rank) in enumerate(RANKS.items(), 1)
    }


def exact(folder: Path, before: Tensors, of: dict[str, Tensors], order: list[str]) -> Exact:
    rule = Exact(context(ROWS, before, folder=folder))
    for site in order:
        rule.add(site, of[site], ROWS[site])
    return rule


def product(adapter: Tensors, layer: str) -> np.ndarray:
    b, a = adapter[layer.format("B")], adapter[layer.format("A")]
    return b.astype(np.float64) @ a.astype(np.float64)


def sent_back(before: Tensors, update: Tensors, rank: int) -> Tensors:
    sent = first_directions(before, rank)
    return {name: sent[name].astype(np.float64) + update[name] for name in update}


def mean_of_products(before: Tensors, of: dict[str, Tensors], layer: str) -> np.ndarray:
    """What averaging merged weights adds to a frozen weight, less the scale that all share."""
    total = sum(ROWS[site] for site in of)
    return np.sum(
        [ROWS[s] / total * product(sent_back(before, of[s], RANKS[s]), layer) for s in of], axis=0
    )


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_it_is_the_mean_of_merged_weights_when_the_rank_suffices(tmp_path: Path) -> None:
    """Ranks 4 and 8 in a job of rank 16."""
    before, of = start(), {site: updates()[site] for site in ("north", "south")}
    rule = exact(tmp_path, before, of, list(of))
    after = rule.result()
    for layer in (Q, V):
        assert relative(product(after, layer), mean_of_products(before, of, layer)) < 1e-6
    assert rule._figures["residual"] == 0.0
    assert rule._figures["factor_error"] > 0.1


@pytest.mark.parametrize("trained", [True, False])
def test_what_the_rank_cuts_off_is_reported(tmp_path: Path, trained: bool) -> None:
    before, of = start(trained=trained), updates()
    rule = exact(tmp_path, before, of, list(of))
    after, cut, whole, plain = rule.result(), 0.0, 0.0, 0.0
    factors = averaged_factors(before, of)
    for layer in (Q, V):
        mean = mean_of_products(before, of, layer)
        cut += float(np.sum((product(after, layer) - mean) ** 2))
        plain += float(np.sum((product(factors, layer) - mean) ** 2))
        whole += float(np.sum(mean**2))
    assert rule._figures["residual"] == pytest.approx(np.sqrt(cut / whole), rel=1e-5)
    assert rule._figures["factor_error"] == pytest.approx(np.sqrt(plain / whole), rel=1e-9)
    assert 0.01 < rule._figures["residual"] < rule._figures["factor_error"]


def averaged_factors(before: Tensors, of: dict[str, Tensors]) -> Tensors:
    """Plain averaging; what a lower rank lacks is 0."""
    total, mean = sum(ROWS.values()), {n: np.zeros(s) for n, s in SHAPES.items()}
    for site, update in of.items():
        part = first_directions(mean, RANKS[site])
        for name, tensor in sent_back(before, update, RANKS[site]).items():
            part[name] += ROWS[site] / total * tensor
    return mean


def test_the_order_of_answers_does_not_matter(tmp_path: Path) -> None:
    before, of = start(), updates()
    results = {
        write_adapter(exact(tmp_path, before, of, list(order)).result())
        for order in itertools.permutations(RANKS)
    }
    assert len(results) == 1


def test_what_is_no_factor_is_averaged_as_in_fedavg(tmp_path: Path) -> None:
    before, of = start(), updates()
    after = exact(tmp_path, before, of, list(of)).result()
    plain = FedAvg(context(ROWS, {"m.score.weight": before["m.score.weight"]}))
    for site, update in of.items():
        plain.add(site, update, ROWS[site])
    assert np.array_equal(after["m.score.weight"], plain.result()["m.score.weight"])
    assert after.keys() == SHAPES.keys()
    assert {n: t.shape for n, t in after.items()} == SHAPES
    assert {t.dtype for t in after.values()} == {np.dtype(np.float32)}


def test_sites_that_train_nothing_change_nothing(tmp_path: Path) -> None:
    before = start()
    still = {
        site: {n: np.zeros(s, np.float32) for n, s in SHAPES.items()} for site in ("north", "west")
    }
    first = exact(tmp_path, before, still, list(still)).result()
    for layer in (Q, V):
        assert relative(product(first, layer), product(before, layer)) < 1e-6


def test_nothing_added_is_no_mean(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing to average"):
        Exact(context(ROWS, start(), folder=tmp_path)).result()


def test_updates_altered_on_disk_end_the_round(tmp_path: Path) -> None:
    rule = exact(tmp_path, start(), updates(), list(RANKS))
    handle = os.open(f"/proc/{os.getpid()}/fd/{rule._spool._file.fileno()}", os.O_RDWR)
    os.pwrite(handle, b"\x01", 5000)
    os.close(handle)
    with pytest.raises(StorageError, match="was altered"):
        rule.result()


def test_an_adapter_at_a_lower_rank() -> None:
    shapes: Shapes = SHAPES
    assert factor_pairs(shapes) == {layer.format("A"): layer.format("B") for layer in (Q, V)}
    low, adapter = shapes_at(shapes, 4), start()
    assert low[Q.format("A")] == (4, K)
    assert low[Q.format("B")] == (N, 4)
    assert low["m.score.weight"] == (3, 40)
    first = first_directions(adapter, 4)
    assert {n: t.shape for n, t in first.items()} == low
    assert np.array_equal(first[Q.format("B")], adapter[Q.format("B")][:, :4])
    assert shapes_at(shapes, 99) == SHAPES
