"""Token ids of texts, and how many of them will be cut: counted before training.

The cutting itself is in ``sealtune.model.tasks``.

Trust domain: client enclave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sealtune.data.site import Example
from sealtune.errors import DataError

BATCH = 512  # texts handed to the tokenizer at once


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], **options: bool) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class TokenCounts:
    """How examples fit into ``max_tokens``.

    Attributes:
        examples: how many were looked at.
        longest: tokens of the longest, at most ``max_tokens``.
        truncated: how many are longer than ``max_tokens`` and will be cut.
    """

    examples: int
    longest: int
    truncated: int

    def warning(self, site: str, part: str) -> dict[str, Any] | None:
        """The progress event that says how many texts are cut, or None if none is."""
        if not self.truncated:
            return None
        return {
            "event": "warning",
            "what": "truncated",
            "site": site,
            "part": part,
            "count": self.truncated,
            "of": self.examples,
        }


def text_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text as the tokenizer begins it, without what it would put behind it.

    Some tokenizers append their end token. A text that is to be continued, or whose class is read
    at its last word, must not end in it.
    """
    found = tokenizer(list(texts), truncation=False, verbose=False, return_special_tokens_mask=True)
    return [
        _without_end(ids, added)
        for ids, added in zip(found["input_ids"], found["special_tokens_mask"], strict=True)
    ]


def _without_end(ids: list[int], added: Sequence[int]) -> list[int]:
    count = len(ids)
    while count and added[count - 1]:
        count -= 1
    return ids[:count]


def count_tokens(
    examples: Sequence[Example], tokenizer: Tokenizer, max_tokens: int, vocabulary: int
) -> TokenCounts:
    """Count the tokens of ``examples``, keeping none of them.

    Args:
        vocabulary: rows of the model's embedding.

    Raises:
        DataError: a text has no tokens, or one that the embedding has no row for.
    """
    longest = truncated = 0
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        rows = text_ids(tokenizer, [example.text for example in batch])
        for example, tokens in zip(batch, rows, strict=True):
            if not tokens:
                raise DataError(
                    f"row {example.row} has no tokens", hint="fill its text in or delete it"
                )
            if max(tokens) >= vocabulary:
                raise DataError(
                    f"row {example.row} has token number {max(tokens)}, but the model's embedding "
                    f"has {vocabulary} rows",
                    hint="the tokenizer is not this model's, or the text holds a special token "
                    "that the model does not know",
                )
            truncated += len(tokens) > max_tokens
            longest = max(longest, min(len(tokens), max_tokens))
    return TokenCounts(len(examples), longest, truncated)
