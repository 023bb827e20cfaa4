"""Counting tokens before training."""

from __future__ import annotations

import pytest

from sealtune.data import Example, count_tokens
from sealtune.errors import DataError


class Words:
    """A tokenizer whose tokens are words; it records the longest cut that was asked for."""

    def __call__(
        self, text: list[str], *, truncation: bool, max_length: int
    ) -> dict[str, list[list[int]]]:
        assert truncation
        return {"input_ids": [[1] * min(len(t.split()), max_length) for t in text]}


def test_counts() -> None:
    texts = ["one", "one two three", "one two three four", "word " * 100_000]
    counts = count_tokens([Example(t, 0, i) for i, t in enumerate(texts)], Words(), 3)
    assert (counts.examples, counts.longest, counts.truncated) == (4, 3, 2)
    assert counts.warning("north", "train") == {
        "event": "warning",
        "what": "truncated",
        "site": "north",
        "part": "train",
        "count": 2,
        "of": 4,
    }
    assert count_tokens([Example("one", 0)], Words(), 3).warning("north", "train") is None


def test_no_tokens() -> None:
    with pytest.raises(DataError, match="row 7 has no tokens"):
        count_tokens([Example("a", 0, 1), Example(" ", 0, 7)], Words(), 3)
