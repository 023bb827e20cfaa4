"""The classification head: fresh, and trained whole, whatever else of a model is tuned.

Trust domain: client enclave (federated), server enclave (split).
"""

from __future__ import annotations

from typing import Any

from sealtune.job.plan import FirstValue
from sealtune.job.sections import HEAD
from sealtune.model.trainable import draw_tensors

_FIRST = FirstValue(law="normal", scale=0.02)


def fresh_head(model: Any, seed: int) -> None:
    """Make the head of a plain ``model`` trainable, with its first values."""
    named = getattr(model, HEAD).requires_grad_(True).named_parameters()
    tensors = {f"{HEAD}.{name}": parameter.detach() for name, parameter in named}
    draw_tensors(tensors, dict.fromkeys(tensors, _FIRST), seed)


def head_first_value(name: str) -> FirstValue | None:
    """See ``Tuner.first_value``."""
    return _FIRST if is_head(name) else None


def is_head(name: str) -> bool:
    """Whether a trainable tensor is of the head."""
    return f".{HEAD}." in f".{name}"
