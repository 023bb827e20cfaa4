"""Whether tokenizer, texts and model go together: found before any work, not in the middle of it.

Trust domain: client enclave; data owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sealtune.errors import DataError, ModelError
from sealtune.job.spec import Job
from sealtune.model.load import load_config, load_tokenizer
from sealtune.model.tasks import Task, task_of
from sealtune.model.texts import Example, Texts, padded

_SPECIAL = ("pad", "bos", "eos")


def fitting_task(job: Job, labels: Sequence[str]) -> Task:
    """The task of ``job``, whose classes are ``labels``, with a tokenizer that fits the model.

    Raises:
        ModelError: see ``check_tokenizer`` and ``make_task``.
    """
    tokenizer = load_tokenizer(job.model)
    check_tokenizer(tokenizer, load_config(job.model))
    return task_of(job, labels, tokenizer)


def check_tokenizer(tokenizer: Any, config: Any) -> None:
    """Raise ModelError if a token that every text may get has no row in the embedding."""
    rows = int(config.vocab_size)
    for name in _SPECIAL:
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number >= rows:
            token = getattr(tokenizer, f"{name}_token")
            raise ModelError(
                f"the tokenizer's {name} token {token!r} has number {number}, but the model's "
                f"embedding has {rows} rows; the tokenizer knows {len(tokenizer)} tokens",
                hint="resize the model's embedding to its tokenizer, or give the tokenizer another "
                f"{name} token",
            )


def fit_texts(
    task: Task, config: Any, examples: Sequence[Example], *, virtual_tokens: int = 0
) -> Texts:
    """Encode ``examples``, and refuse what the model has no row or place for.

    Args:
        virtual_tokens: how many stand before every text (``TuningSpec.virtual_tokens``).

    Raises:
        DataError: a text without tokens, a token beyond the embedding, or a text that is longer
            than the model's positions.
    """
    texts, rows = task.encode(examples), int(config.vocab_size)
    beyond = np.flatnonzero(texts.ids >= rows)
    if beyond.size:
        number = int(np.searchsorted(texts.ends, beyond[0], side="right"))
        raise DataError(
            f"row {examples[number].row} has token number {texts.ids[beyond[0]]}, but the model's "
            f"embedding has {rows} rows",
            hint="the tokenizer is not this model's, or the text holds a special token that the "
            "model does not know",
        )
    longest = padded(max(texts.lengths, default=0))
    check_length(longest, config, hint="lower data.max_tokens", virtual_tokens=virtual_tokens)
    return texts


def check_length(tokens: int, config: Any, *, hint: str, virtual_tokens: int = 0) -> None:
    """Raise DataError if the model has too few positions for ``tokens`` behind virtual ones.

    Nor may its attention reach back less far: the end of a text would not see the virtual tokens.
    """
    places = getattr(config, "max_position_embeddings", None)
    window = getattr(config, "sliding_window", None) if virtual_tokens else None
    behind = f" behind {virtual_tokens} virtual ones" if virtual_tokens else ""
    for most, what in (
        (places, "the model has {} positions"),
        (window, "its attention reaches {}"),
    ):
        if most is not None and tokens + virtual_tokens > most:
            raise DataError(
                f"texts take up to {tokens} tokens, padded to whole eights{behind}, but "
                f"{what.format(most)}",
                hint=hint,
            )
