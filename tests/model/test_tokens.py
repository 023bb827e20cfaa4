"""Tokens of texts: what is left out, what is refused, and that many at once are as one by one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sealtune.errors import DataError
from sealtune.model.fit import fit_texts
from sealtune.model.texts import join
from sealtune.model.tokens import text_ids
from tests.model.test_tasks import task_of
from tests.model.tiny import LABELS, Text, make_texts


class Words:
    """A tokenizer whose tokens are words, between a start token and two that end the text."""

    def __call__(self, text: list[str], **_options: bool) -> dict[str, list[list[int]]]:
        counts = [len(t.split()) for t in text]
        return {
            "input_ids": [[7] * bool(n) + [1] * n + [8, 9] for n in counts],
            "special_tokens_mask": [[1] * bool(n) + [0] * n + [1, 1] for n in counts],
        }


def test_what_a_tokenizer_appends_is_left_out() -> None:
    assert list(text_ids(Words(), ["one two", " "])) == [[7, 1, 1], []]


@pytest.mark.parametrize("name", ["classification", "label-words", "causal-lm"])
def test_texts_at_once_are_texts_one_by_one(llama: Path, name: str) -> None:
    task = task_of(llama, name, labels=() if name == "causal-lm" else LABELS)
    many = [*make_texts(700, 4), Text("severe murmur " * 40, 1), Text("rash<end>", 2)]
    texts = task.encode(many)
    assert texts.ids.dtype == np.int32
    for row, text in zip(texts.rows(range(len(many))), many, strict=True):
        assert row.tolist() == task.encode([text]).ids.tolist()
    assert texts.labels == tuple(text.label for text in many)
    assert texts.truncated == sum(task.encode([text]).truncated for text in many) == 1
    parts = join([task.encode(many[:300]), task.encode(many[300:])])
    assert torch.equal(parts.batch([5, 701, 300]).input_ids, texts.batch([5, 701, 300]).input_ids)
    assert (parts.lengths, parts.truncated) == (texts.lengths, 1)


def test_a_row_without_tokens_is_named(llama: Path) -> None:
    with pytest.raises(DataError, match="row 7 has no tokens"):
        task_of(llama).encode([Text("a", 0, 1), Text("", 0, 7)])


def test_a_token_beyond_the_embedding_is_named(llama: Path) -> None:
    task = task_of(llama)
    highest = int(task.encode([Text("rash")]).ids.max())
    config = SimpleNamespace(vocab_size=highest)
    with pytest.raises(DataError, match=rf"row 5 has token number \d+, .* has {highest} rows"):
        fit_texts(task, config, [Text("the", 0, 4), Text("rash", 0, 5)])
    config.vocab_size = highest + 1
    assert len(fit_texts(task, config, [Text("rash", 0, 5)])) == 1
