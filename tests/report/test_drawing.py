"""Scales, charts, bars, heat maps and numbers, as the template gets them."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealtune.report import heads, numbers
from sealtune.report.charts import Axes, Chart, Series
from sealtune.report.methods import view_of
from sealtune.report.parties import Facts
from sealtune.report.scale import bounds, segments, smooth, spread, thin, ticks
from sealtune.report.sections import bars
from tests.report.sample_run import Json

AXES = Axes("Loss", "round", "loss (nats)", numbers.loss)
PICTURE = Path(__file__).parents[2] / "docs" / "trust-domains.svg"
reals = st.floats(-1e6, 1e6)


def test_chart_with_one_point() -> None:
    only = Series("a", [(1, 2.0)])
    chart = Chart([only], AXES)
    assert chart.points(only) == [(1, 2.0)]
    assert chart.path(chart.points(only)) == "M500 500"
    assert chart.hover(only, 1, 2.0) == "a, round 1: 2.000"


def test_chart_without_points_says_so() -> None:
    assert not Chart([], AXES).series
    assert not Chart([Series("a", [(1, None)])], AXES).series


def test_chart_does_not_bridge_a_missing_value() -> None:
    only = Series("a", [(1, 3.0), (2, None), (3, 1.0)])
    chart = Chart([only], AXES)
    assert chart.runs(only) == [[(1, 3.0)], [(3, 1.0)]]
    assert chart.gaps(only) == [2]
    assert chart.hover(only, 2) == "a, round 2: no value"


def test_chart_puts_values_where_they_belong() -> None:
    axes = Axes("Accuracy", "round", "%", numbers.percent, (0.0, 1.0), references=[("base", 0.75)])
    only = Series("a", [(0, 0.0), (1, 0.25), (4, 1.0)])
    chart = Chart([only], axes)
    assert [chart.path(run) for run in chart.runs(only)] == ["M0 1000L250 750L1000 0"]
    assert [chart.across(x) for x in chart.x_ticks] == [0, 25, 50, 75, 100]
    assert (chart.down(chart.y_ticks[0]), chart.down(chart.y_ticks[-1])) == (100, 0)
    assert chart.reference_names() == [("base", 25.0)]


@given(st.lists(st.tuples(st.integers(0, 50), st.none() | reals), min_size=1, max_size=30))
def test_chart_stays_inside_its_frame(points: list[tuple[float, float | None]]) -> None:
    series = Series("a", sorted(points, key=lambda p: p[0]))
    chart = Chart([series], AXES)
    places: list[float] = []
    for s in chart.series:
        places += [chart.across(x) for x in (*chart.x_ticks, *chart.gaps(s))]
        drawn = chart.path([*chart.points(s), *(p for run in chart.runs(s) for p in run)])
        assert all(0 <= float(n) <= 1000 for n in re.findall(r"-?[0-9.]+", drawn))
        places += [chart.down(y) for y in chart.y_ticks]
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)


def test_many_series_are_grey_except_the_mean() -> None:
    series = [Series(f"site {i}", [(0, i), (1, i + 1)]) for i in range(12)]
    chart = Chart([*series, Series("all sites", [(0, 5), (1, 6)], emphasis=True)], AXES)
    assert chart.legend() == [("all sites", "all"), ("12 sites, one line each", "many")]
    assert [chart.class_of(s) for s in chart.series] == ["many"] * 12 + ["all"]


def test_names_of_marks_leave_room() -> None:
    for count, wide, narrow in ((3, 3, 3), (12, 12, 4), (100, 12, 4)):
        axes = Axes("L", "x", "y", numbers.loss, marks=[(f"round {i}", i) for i in range(count)])
        named = Chart([Series("a", [(0, 1.0), (count, 2.0)])], axes).mark_names()
        assert min(count, wide) / 2 < len(named) <= wide
        assert 1 <= sum(class_ == "" for _, _, class_ in named) <= narrow


@given(st.tuples(reals, reals).filter(lambda p: abs(p[0] - p[1]) > 1e-6))
def test_ticks_lie_in_range(pair: tuple[float, float]) -> None:
    lo, hi = sorted(pair)
    values = ticks(lo, hi)
    assert 1 <= len(values) <= 12
    slack = (hi - lo) * 1e-6
    assert all(lo - slack <= v <= hi + slack for v in values)


@given(st.lists(reals, max_size=20))
def test_bounds_hold_every_value(values: list[float]) -> None:
    lo, hi = bounds(values)
    assert lo < hi
    assert all(lo <= v <= hi for v in values)


@given(st.lists(st.tuples(st.integers(), st.none() | reals), max_size=3000))
def test_thinning_keeps_extremes(points: list[tuple[float, float | None]]) -> None:
    kept = thin(points, 90)
    assert len(kept) <= max(90, min(len(points), 90)) + 3
    known = [y for _, y in points if y is not None]
    if known:
        shown = [y for _, y in kept if y is not None]
        assert (min(shown), max(shown)) == (min(known), max(known))
    assert any(y is None for _, y in points) == any(y is None for _, y in kept)


def test_smooth_is_a_centred_mean_that_stops_at_gaps() -> None:
    line = [(float(i), float(i)) for i in range(6)]
    assert smooth(line, 2) == [(2.0, 2.0), (3.0, 3.0)]
    parted = smooth([(0, 1.0), (1, 3.0), (2, None), (9, 5.0)], 2)
    assert segments(parted) == [[(0, 1.0), (1, 3.0)], [(9, 5.0)]]
    jump = smooth([(0, 1.0), (1, 1.0), (9, 5.0), (10, 5.0)], 1)
    assert len(segments(jump)) == 2


@given(st.lists(st.floats(0, 200), max_size=10))
def test_labels_are_spread(positions: list[float]) -> None:
    placed = spread(positions, 13, 0, 200)
    ordered = sorted(placed)
    assert all(b - a >= 13 - 1e-9 for a, b in pairwise(ordered))


def test_bar_beyond_the_scale_is_cut() -> None:
    rows = [("a", 2.0, "200 %", "x", ""), ("b", None, "–", "x", ""), ("c", 0.25, "25 %", "x", "")]
    assert [bar.parts[0].width for bar in bars(rows, full=1.0)] == [100.0, 0.0, 25.0]
    assert [bar.parts[0].width for bar in bars(rows)] == [100.0, 0.0, 12.5]


def _split(blocks: int, query: int, shared: int, every: int) -> Json:
    layers = {
        f"model.layers.{block}.self_attn": {
            "query": list(range(0, query, every)),
            "key-value": list(range(0, shared, every)),
            "dense": list(range(0, query, every)),
        }
        for block in range(blocks)
    }
    return {"heads": layers, "query_heads": query, "key_value_heads": shared}


@pytest.mark.parametrize(("blocks", "query", "shared"), [(1, 2, 1), (6, 9, 3), (80, 64, 8)])
def test_heat_map_holds_every_head_in_its_frame(blocks: int, query: int, shared: int) -> None:
    drawn = heads.maps(_split(blocks, query, shared, 2))
    assert [heat.heads for heat in drawn] == [query, shared, query]
    for heat in drawn:
        assert [row.block for row in heat.rows] == list(range(blocks))
        for row in heat.rows:
            cells = [head for at, count in row.runs for head in range(at, at + count)]
            assert cells == list(range(0, heat.heads, 2))
        assert heat.chosen == blocks * len(range(0, heat.heads, 2))
        assert 5 <= heat.cell <= 18
        assert all(0 <= head < heat.heads for head in heat.ticks)
    assert sum(heat.heads * heat.cell for heat in drawn) <= 960  # the page's column, less gaps


def test_heat_map_puts_a_head_where_it_belongs() -> None:
    apart = heads.maps(
        {"heads": {"h.7.attn": {"value": [0], "key": [], "query": []}}, "query_heads": 9,
         "key_value_heads": 3}
    )  # fmt: skip
    assert [(heat.name, heat.heads) for heat in apart] == [
        ("query heads", 9), ("key heads", 3), ("value heads", 3)
    ]  # fmt: skip
    chosen = {"h.7.attn": {"qkv": [], "dense": [3]}, "h.8.attn": {"qkv": [0, 1, 3]}}
    qkv, dense = heads.maps({"heads": chosen, "query_heads": 4, "key_value_heads": 4})
    assert [row.said for row in qkv.rows] == [
        "block 7, query, key and value heads: none (0 of 4)",
        "block 8, query, key and value heads: 0, 1, 3 (3 of 4)",
    ]
    assert [list(row.runs) for row in qkv.rows] == [[], [(0, 2), (3, 1)]]
    assert [(row.block, list(row.runs)) for row in dense.rows] == [(7, [(3, 1)])]


def test_picture_in_docs_says_what_the_report_says() -> None:
    drawing = PICTURE.read_text()
    assert "://" not in drawing.replace("http://www.w3.org/2000/svg", "")
    said = " ".join(" ".join(ET.fromstring(drawing).itertext()).split())
    for party in view_of(None).parties(Facts()):
        for words in (party.title, party.trust, party.sees, party.never):
            assert words in said, words


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.percent(0.6812), "68.1 %"),
        (numbers.percent(None), "–"),
        (numbers.size(999), "999 B"),
        (numbers.size(None), "–"),
        (numbers.size(48_123_000), "45.9 MiB"),
        (numbers.size(0), "0 B"),
        (numbers.duration(0.4211), "0.42 s"),
        (numbers.duration(59.96), "1 min 00 s"),
        (numbers.duration(252.4), "4 min 12 s"),
        (numbers.duration(7500), "2 h 05 min"),
        (numbers.count(14538), "14,538"),
        (numbers.mib(512), "512 MiB"),
        (numbers.mib(2890), "2.82 GiB"),
        (numbers.points(-0.0208), "2.1 points worse"),
        (numbers.points(0.0001), "equal"),
        (numbers.times(1.7049), "1.70 × as long"),
        (numbers.of(3, 5), "3 of 5"),
        (numbers.of(3, None), "3"),
        (numbers.moment(0), "1970-01-01 00:00:00 UTC"),
        (numbers.moment(1e300), "–"),
    ],
)
def test_numbers_for_people(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected
