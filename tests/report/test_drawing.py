"""Scales, charts, bars and the trust picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealtune.report import numbers
from sealtune.report.bars import Bar, bars
from sealtune.report.charts import Axes, Series, line_chart
from sealtune.report.parties import Facts
from sealtune.report.picture import narrow, standalone, wide
from sealtune.report.scale import bounds, segments, smooth, spread, thin, ticks
from sealtune.report.svg import tag, text_width, wrap

AXES = Axes("Loss", "round", "loss (nats)", numbers.loss)
PICTURE = Path(__file__).parents[2] / "docs" / "trust-domains.svg"
reals = st.floats(-1e6, 1e6)


def coordinates(drawing: str) -> list[float]:
    """All numbers in attributes that place something."""
    placed = re.findall(r' (?:x|y|x1|x2|y1|y2|cx|cy|d)="([^"]*)"', drawing)
    return [float(n) for text in placed for n in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_chart_with_one_point() -> None:
    drawing = line_chart([Series("a", [(1, 2.0)])], AXES)
    assert drawing.count("<circle") == 1
    assert "a, round 1: 2.000" in drawing


def test_chart_without_points_says_so() -> None:
    assert "Nothing recorded." in line_chart([], AXES)
    assert "Nothing recorded." in line_chart([Series("a", [(1, None)])], AXES)


def test_chart_does_not_bridge_a_missing_value() -> None:
    drawing = line_chart([Series("a", [(1, 3.0), (2, None), (3, 1.0)])], AXES)
    assert drawing.count('class="curve"') == 2
    assert "a, round 2: no value" in drawing
    assert "nan" not in drawing.lower()


@given(st.lists(st.tuples(st.integers(0, 50), st.none() | reals), min_size=1, max_size=30))
def test_chart_stays_inside_its_frame(points: list[tuple[float, float | None]]) -> None:
    drawing = str(line_chart([Series("a", sorted(points, key=lambda p: p[0]))], AXES))
    inside = drawing[drawing.index("<svg") :] if "<svg" in drawing else ""
    assert all(0 <= n <= 520 for n in coordinates(inside))


def test_many_series_are_grey_except_the_mean() -> None:
    series = [Series(f"site {i}", [(0, i), (1, i + 1)]) for i in range(12)]
    drawing = line_chart([*series, Series("all sites", [(0, 5), (1, 6)], emphasis=True)], AXES)
    assert "12 sites, one line each" in drawing
    assert 'class="s0"' not in drawing
    assert 'class="all"' in drawing


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


@given(st.text(max_size=80), st.floats(20, 400))
def test_wrapped_lines_fit(text: str, width: float) -> None:
    for line in wrap(text, 12, width):
        assert text_width(line, 12) <= max(width, text_width("…", 12))


@given(st.text(), st.text())
def test_tag_escapes(content: str, value: str) -> None:
    drawn = tag("t", content, title=value)
    assert re.fullmatch(r'<t title="[^"<>]*">[^<>]*</t>', drawn)


def test_bar_beyond_the_scale_is_cut() -> None:
    drawn = bars([Bar("a", 2.0, "200 %"), Bar("b", None, "–")], full=1.0)
    assert 'width="100"' in drawn
    assert 'width="0"' in drawn


@pytest.mark.parametrize("protect", ["adapter+data", "adapter", "insecure-none"])
@pytest.mark.parametrize("draw", [wide, narrow])
def test_picture_fits_its_frame(protect: str, draw: object) -> None:
    assert callable(draw)
    long = tuple(f"a-very-long-name-of-a-hospital-{i}" for i in range(64))
    facts = Facts(protect, long, True, 12, 1e12, 1e12, 9.99e14, 9.99e14)
    drawing = str(draw(facts))
    root = ET.fromstring(drawing)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for box in root.iter("rect"):
        left, top = float(box.get("x", 0)), float(box.get("y", 0))
        assert 0 <= left <= left + float(box.attrib["width"]) <= width
        assert 0 <= top <= top + float(box.attrib["height"]) <= height
    for text in root.iter("text"):
        room = text_width("".join(text.itertext()), 11.5)
        anchored = text.get("text-anchor") == "middle"
        assert float(text.attrib["x"]) + (room / 2 if anchored else room) <= width + 12


def test_picture_in_docs_is_the_one_the_code_draws() -> None:
    expected = standalone()
    ET.fromstring(expected)
    assert "://" not in expected.replace("http://www.w3.org/2000/svg", "")
    assert PICTURE.read_text() == expected, "rebuild it: see sealtune/report/picture.py"


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
        (numbers.moment(0), "1970-01-01 00:00:00 UTC"),
        (numbers.moment(1e300), "–"),
    ],
)
def test_numbers_for_people(shown: str, expected: str) -> None:
    assert shown.replace("\u00a0", " ") == expected
