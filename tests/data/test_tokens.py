"""Counting tokens before training."""

from __future__ import annotations

import pytest

from sealtune.data.site import Example
from sealtune.data.tokens import count_tokens, text_ids
from sealtune.errors import DataError


class Words:
    """A tokenizer whose tokens are words, between a start token and two that end the text."""

    def __call__(self, text: list[str], **_options: bool) -> dict[str, list[list[int]]]:
        counts = [len(t.split()) for t in text]
        return {
            "input_ids": [[7] * bool(n) + [1] * n + [8, 9] for n in counts],
            "special_tokens_mask": [[1] * bool(n) + [0] * n + [1, 1] for n in counts],
        }


def test_what_a_tokenizer_appends_is_left_out() -> None:
    assert text_ids(Words(), ["one two", " "]) == [[7, 1, 1], []]


def test_counts() -> None:
    texts = ["one", "one two three", "one two three four", "word " * 100_000]
    counts = count_tokens([Example(t, 0, i) for i, t in enumerate(texts)], Words(), 4, 10)
    assert (counts.examples, counts.longest, counts.truncated) == (4, 4, 2)
    assert counts.warning("north", "train") == {
        "event": "warning",
        "what": "truncated",
        "site": "north",
        "part": "train",
        "count": 2,
        "of": 4,
    }
    assert count_tokens([Example("one", 0)], Words(), 3, 10).warning("north", "train") is None


def test_no_tokens() -> None:
    with pytest.raises(DataError, match="row 7 has no tokens"):
        count_tokens([Example("a", 0, 1), Example(" ", 0, 7)], Words(), 3, 10)


def test_a_token_beyond_the_embedding() -> None:
    with pytest.raises(DataError, match=r"row 5 has token number 7, but the .* has 7 rows"):
        count_tokens([Example("a", 0, 5)], Words(), 3, 7)
