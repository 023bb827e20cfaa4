"""Token ids of texts; cutting them is in ``sealtune.model.tasks``.

Trust domain: client enclave; data owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

BATCH = 512  # texts handed to the tokenizer at once


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], **options: bool) -> Mapping[str, Any]: ...


def text_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text as the tokenizer begins it, without what it would put behind it.

    Some tokenizers append their end token. A text that is to be continued, or whose class is read
    at its last word, must not end in it.
    """
    encoded = tokenizer(
        list(texts), truncation=False, verbose=False, return_special_tokens_mask=True
    )
    return [
        _without_end(ids, added)
        for ids, added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    ]


def _without_end(ids: list[int], added: Sequence[int]) -> list[int]:
    count = len(ids)
    while count and added[count - 1]:
        count -= 1
    return ids[:count]
