"""What the enclave expects of an accelerator, whether near, far or in the same process.

Trust domain: client enclave. Whatever implements this is untrusted.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Accelerator(Protocol):
    """A machine that multiplies with the frozen backbone."""

    def product(self, group: str, codes: Tensor, *, backward: bool) -> Tensor:
        """``codes @ W^T`` (forward, int32 [T, K] -> [T, N]) or ``codes @ W`` (backward), mod 2^32.

        The result is in memory that the accelerator cannot change any more.
        """
        ...

    def prefix(self, input_ids: Tensor) -> Tensor:
        """Embedding and leading plain blocks: int64 [B, T] -> float32 [B, T, D]."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...
