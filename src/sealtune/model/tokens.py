"""Token ids of texts; cutting them is in ``sealtune.model.tasks``.

Trust domain: client enclave; data owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

BATCH = 512  # texts handed to the tokenizer at once


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    def __call__(self, text: list[str], **options: bool) -> Mapping[str, Any]: ...


def text_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text as the tokenizer begins it, without what it would put behind it.

    Some tokenizers append their end token. A text that is to be continued, or whose class is read
    at its last word, must not end in it.
    """
    for start in range(0, len(texts), BATCH):
        some = list(texts[start : start + BATCH])
        encoded = tokenizer(some, truncation=False, verbose=False, return_special_tokens_mask=True)
        for ids, added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
            count = len(ids)
            while count and added[count - 1]:
                count -= 1
            yield ids[:count]
