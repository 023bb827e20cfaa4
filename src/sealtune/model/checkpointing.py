"""Activation checkpointing: blocks are computed again in the backward pass, for less memory.

Of each block its input alone is kept (Chen et al., arXiv 1604.06174). Dropout is drawn as it was
the first time, so gradients are the same; a masked layer takes a fresh pad for each of its calls.

Trust domain: client enclave (federated), server enclave (split), data owner (secure aggregation).
"""

from __future__ import annotations

from typing import Any

from sealtune.errors import UnsupportedModelError


def compute_blocks_again(model: Any) -> None:
    """Turn it on in a Hugging Face model; it takes effect while the model trains.

    Raises:
        UnsupportedModelError: its blocks cannot be computed again.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UnsupportedModelError(
            f"the blocks of {type(model).__name__} cannot be computed again",
            hint="set train.checkpointing to false",
        )
    model.config.use_cache = False  # a cache would hold what is to be computed again
    model.activation_checkpointing_enable()
