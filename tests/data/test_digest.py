"""Data digests: the same examples give the same digest, any other does not."""

from __future__ import annotations

import pytest

from sealtune.data.digest import identify
from sealtune.data.site import Example, SiteData

LABELS = ("a", "ß")
ROWS = [Example("one", 0, 1), Example("two", 1, 2)]


def digest(rows: list[Example]) -> str:
    return identify(SiteData(rows, []), LABELS).train


def test_places_of_rows_do_not_matter() -> None:
    assert digest(ROWS) == digest([Example("one", 0, 7), Example("two", 1, 9)])
    found = identify(SiteData(ROWS, ROWS[:1]), LABELS)
    assert (found.train_rows, found.test_rows) == (2, 1)
    assert found.train != found.test


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ROWS[:1],
        ROWS[::-1],
        [*ROWS, ROWS[0]],
        [Example("one", 1), Example("two", 1)],
        [Example("one", None), Example("two", None)],
        [Example("one", 1), Example("two", 0)],
        [Example("onea", 0), Example("two", 1)],
        [Example("onet", 0), Example("wo", 1)],
        [Example("one\x00", 0), Example("two", 1)],
        [Example("one\ud800", 0), Example("two", 1)],
    ],
)
def test_anything_else_does(rows: list[Example]) -> None:
    assert digest(rows) != digest(ROWS)


def test_others_labels_do_not_matter() -> None:
    """A site knows its digest before the job's list of labels is complete."""
    moved = [Example("one", 2), Example("two", 0)]
    found = identify(SiteData(moved, moved), ("ß", "between", "a"))
    assert found == identify(SiteData(ROWS, ROWS), LABELS)
    assert found != identify(SiteData(ROWS, ROWS), ("a", "ss"))
