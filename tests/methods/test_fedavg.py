"""The mean: against exact fractions, in every order, and up to its largest numbers."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from sealtune.errors import ModelError
from sealtune.job.manifest import MAX_ROWS
from sealtune.methods.federated.adapter import write_adapter
from sealtune.methods.federated.rules.fedavg import FedAvg
from tests.methods.rounds import SHAPES, Tensors, context, tensors

ROWS = {"north": 7, "south": 900, "west": 31, "east": 123456}


def mean(order: list[str], updates: dict[str, Tensors], **options: object) -> Tensors:
    rule = FedAvg(context(ROWS, **options))  # type: ignore[arg-type]
    for site in order:
        rule.add(site, updates[site], ROWS[site])
    return rule.result()


def test_it_is_exact_and_does_not_depend_on_the_order() -> None:
    updates = {site: tensors(i, 10.0 ** (i - 3)) for i, site in enumerate(ROWS, 1)}
    results = {write_adapter(mean(list(o), updates)) for o in itertools.permutations(ROWS)}
    assert len(results) == 1
    found, before, total = mean(list(ROWS), updates), tensors(0, 0.1), sum(ROWS.values())
    for name in SHAPES:
        wide = sum(updates[s][name].astype(np.longdouble) * n for s, n in ROWS.items()) / total
        exact = (before[name] + wide).astype(np.float32)
        np.testing.assert_array_max_ulp(found[name], exact, maxulp=1)
        assert np.mean(found[name] == exact) > 0.999


@pytest.mark.parametrize("count", [1, 2, 64])
def test_the_largest_numbers_there_can_be(count: int) -> None:
    """2^29 rows at each of 64 sites, every number as far as it may be: nothing wraps around."""
    sites = {f"s{i}": MAX_ROWS - 1 for i in range(count)}
    reach = 0.731
    for sign in (1, -1):
        update = {n: np.full(s, sign * reach, np.float32) for n, s in SHAPES.items()}
        rule = FedAvg(context(sites, reach=float(np.float32(reach))))
        for site, rows in sites.items():
            rule.add(site, update, rows)
        for name, tensor in rule.result().items():
            exact = (tensors(0, 0.1)[name].astype(np.float64) + update[name]).astype(np.float32)
            np.testing.assert_array_max_ulp(tensor, exact, maxulp=1)


def test_terms_half_way_between_two_steps_of_the_grid_are_rounded_each_by_itself() -> None:
    """Rounding half to even on the running sum would let the order in."""
    rows = {"a": 1, "b": 1, "c": 1}
    step = 2.0 ** (1 - 51)  # of the grid, for a reach of 1 and a weight of 1
    values = {"a": 0.5 * step, "b": 1.5 * step, "c": 1.0}
    before = {"x": np.zeros(1, np.float32)}
    results = set()
    for order in itertools.permutations(rows):
        rule = FedAvg(context(rows, before, reach=1.0))
        for site in order:
            rule.add(site, {"x": np.full(1, values[site], np.float32)}, 1)
        results.add(rule._sums["x"].tobytes())
    assert len(results) == 1
    exact = sum(Fraction(v) for v in values.values()) / 3
    assert abs(float(rule.result()["x"][0]) - float(exact)) < 1e-7


def test_nothing_added_is_no_mean() -> None:
    with pytest.raises(ModelError, match="nothing to average"):
        FedAvg(context(ROWS)).result()
