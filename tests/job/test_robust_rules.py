"""Rules that cannot keep what they promise, and settings without their rule: refused by name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.load import load_job
from sealtune.job.robust_rules import fewest_sites, left_out
from tests.job.test_load import faults, write

NAMES = [f"s{i}" for i in range(7)]


@pytest.mark.parametrize(
    ("aggregation", "sites", "needed"),
    [
        ({"rule": "median"}, 3, 3),
        ({"rule": "trimmed-mean"}, 5, 5),
        ({"rule": "trimmed-mean", "trim": 0.4}, 3, 3),
        ({"rule": "multi-krum"}, 5, 5),
        ({"rule": "multi-krum", "attackers": 2}, 7, 7),
    ],
)
def test_a_rule_needs_its_sites_in_every_round(
    aggregation: dict[str, Any], sites: int, needed: int, tmp_path: Path
) -> None:
    enough = {"names": NAMES[:sites], "partition": "label"}
    load_job(write(tmp_path, aggregation=aggregation, sites=enough))
    for job in (
        {"sites": {"names": NAMES[: sites - 1], "partition": "label"}},
        {
            "sites": {"names": NAMES, "partition": "label"},
            "aggregation": {**aggregation, "participation": (sites - 1) / len(NAMES)},
        },
    ):
        found = faults(write(tmp_path, **{"aggregation": aggregation, **job}))
        assert f"needs the updates of {needed} sites" in found["aggregation.rule"]
        assert f"a round asks {sites - 1}" in found["aggregation.rule"]


@pytest.mark.parametrize(("key", "value"), [("trim", 0.1), ("attackers", 2)])
@pytest.mark.parametrize("rule", ["fedavg", "median"])
def test_a_setting_without_its_rule_is_refused(
    key: str, value: Any, rule: str, tmp_path: Path
) -> None:
    found = faults(
        write(tmp_path, aggregation={"rule": rule, key: value}, sites={"names": NAMES[:3]})
    )
    assert f"the rule is {rule}" in found[f"aggregation.{key}"]


def test_no_attackers_are_no_setting(tmp_path: Path) -> None:
    found = faults(write(tmp_path, aggregation={"rule": "multi-krum", "attackers": 0}))
    assert "aggregation.attackers" in found


@given(st.floats(1e-6, 0.5, exclude_max=True), st.integers(1, 200))
def test_a_trimmed_mean_leaves_out_a_share_and_never_all(trim: float, sites: int) -> None:
    each = left_out(trim, sites)
    assert 2 * each < sites
    assert each in (math.floor(trim * sites), math.floor(trim * sites + 1e-9))
    spec = AggregationSpec(rule="trimmed-mean", trim=trim)
    if sites >= fewest_sites(spec):
        assert each >= 1


def test_shares_in_tenths_are_what_they_look_like() -> None:
    assert [left_out(0.29, 100), left_out(0.2, 5), left_out(0.1, 9), left_out(0.3, 10)] == [
        29, 1, 0, 3,
    ]  # fmt: skip
