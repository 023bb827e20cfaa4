"""Sizes and durations: one function each, for terminal, report and advice."""

from __future__ import annotations

import pytest

from sealtune.job.units import duration, size, three


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1023, "0.999 KiB"),
        (1536, "1.50 KiB"),
        (5 << 20, "5.00 MiB"),
        (48_123_000, "45.9 MiB"),
        (1 << 50, "1,020 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4211, "0.42 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (252.4, "4 min 12 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_three_figures() -> None:
    assert [three(value) for value in (0.9996, 12.34, 123.4, 1234)] == [
        "1.00",
        "12.3",
        "123",
        "1,230",
    ]
