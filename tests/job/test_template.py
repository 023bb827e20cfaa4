"""Prompt templates: plain names only, and nothing in a row is ever interpreted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.job.template import parse_template


def test_parts() -> None:
    parts = [(p.text, p.is_column) for p in parse_template("{{x}} {title}: {text}!")]
    assert parts == [
        ("{x} ", False),
        ("title", True),
        (": ", False),
        ("text", True),
        ("!", False),
    ]
    parts = parse_template("{Chief complaint}{größe-1}")
    assert [part.text for part in parts] == ["Chief complaint", "größe-1"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a.b",
        "a[0]",
        "a!r",
        "a:>9",
        "0",
        "1a",
        "a{b",
        "a ",
        " a",
        "a\n",
        "__class__.x",
        "(a)",
    ],
)
def test_only_plain_names(name: str) -> None:
    with pytest.raises(ValueError, match="braces may hold only the plain name"):
        parse_template("{" + name + "}")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{a", "never closed"),
        ("a} {b}", "never opened"),
        ("plain", "names no column"),
        ("{{a}}", "names no column"),
        ("", "names no column"),
        ("{a}" + "x" * 20_000, "characters long"),
    ],
)
def test_malformed(template: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_template(template)


@settings(deadline=None)
@given(st.text(alphabet="{}a .[]!:", max_size=12))
def test_any_text_parses_or_raises_value_error(template: str) -> None:
    try:
        parts = parse_template(template)
    except ValueError:
        return
    again = "".join(
        f"{{{p.text}}}" if p.is_column else p.text.replace("{", "{{").replace("}", "}}")
        for p in parts
    )
    assert again == template
