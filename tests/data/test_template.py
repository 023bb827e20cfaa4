"""Rendering rows into prompts."""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.data.template import Template
from sealtune.errors import DataError


def test_render() -> None:
    template = Template("{title}: {text} {{x}}")
    assert template.columns == ("title", "text")
    assert template.render({"title": "Hb", "text": "low"}, "row 1") == "Hb: low {x}"
    assert template.render({"title": "Hb", "text": ""}, "row 1") == "Hb:  {x}"
    assert template.render({"title": "Age", "text": 41}, "row 1") == "Age: 41 {x}"


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda t: bool(t.strip())))
def test_values_are_never_interpreted(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert Template("<{a}>").render({"a": text}, "row 1") == f"<{text}>"
    assert Template("{a}{b}").render({"a": text, "b": "{a}"}, "row 1") == text + "{a}"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, r"file, row 7 has no column 'a'; available: none"),
        ({"b": "x"}, r"available: 'b'"),
        ({"a": ""}, r"'a' is blank"),
        ({"a": " \n\t\u2003"}, r"'a' is blank"),
        ({"a": None}, r"'a' is missing \(null\)"),
        ({"a": 3}, r"'a' is a whole number, not text"),
        ({"a": True}, r"'a' is true or false, not text"),
        ({"a": {"x": 1}}, r"an object, not text"),
        ({"a": ["x"]}, r"'a' is a list, not text"),
        ({"a": "\ud800"}, r"broken Unicode"),
    ],
)
def test_faults_name_the_row_and_not_its_contents(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Template("Text: {a}").render(row, "file, row 7")
    assert caught.value.message.startswith("file, row 7")


def test_all_columns_blank() -> None:
    with pytest.raises(DataError, match="'a' and 'b' are blank"):
        Template("{a}: {b}").render({"a": " ", "b": ""}, "row 1")
    with pytest.raises(DataError, match="'a' is true or false"):
        Template("{a}: {b}").render({"a": True, "b": "x"}, "row 1")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, Decimal("NaN"), None])
def test_what_is_no_number_is_refused_like_null(value: object) -> None:
    with pytest.raises(DataError, match=r"row 7: 'age' is missing \(") as caught:
        Template("{age} years: {text}").render({"age": value, "text": "rash"}, "file, row 7")
    assert "delete the row" in caught.value.hint  # as text, it would be trained as the word "nan"


@pytest.mark.parametrize(
    ("value", "words"),
    [(date(2020, 1, 2), "a date"), (datetime(2020, 1, 2), "a date and time"), (b"x", "bytes")],
)
def test_other_types_are_named(value: object, words: str) -> None:
    with pytest.raises(DataError, match=f"'age' is {words}, not text"):
        Template("{age} years: {text}").render({"age": value, "text": "rash"}, "file, row 7")


def test_numbers_are_written_as_they_stand() -> None:
    for value, text in ((40, "40"), (1.5, "1.5"), (Decimal("1.50"), "1.50")):
        assert Template("{age}: {t}").render({"age": value, "t": "x"}, "") == f"{text}: x"
