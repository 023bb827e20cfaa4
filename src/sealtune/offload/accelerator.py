"""What the enclave expects of an accelerator, whether near, far or in the same process.

Trust domain: client enclave. Whatever implements this is untrusted.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Call(Protocol):
    """One product, from its codes to its result. It lives until the next call begins."""

    @property
    def codes(self) -> Tensor:
        """int32 [T, K], contiguous: where the masked codes go before ``submit``.

        The accelerator may see each write as it happens, so nothing but masked codes is ever
        written here, and nothing is read back.
        """
        ...

    def submit(self) -> None:
        """Hand the codes over. The accelerator works from now on; this returns at once.

        Raises:
            AcceleratorLostError: it has gone.
        """
        ...

    def result(self) -> Tensor:
        """Wait for the product: int32 [T, N], contiguous, read-only by agreement.

        The accelerator may change it at any time: each element is read once, by whatever judges it.

        Raises:
            AcceleratorLostError: none came, or one of another size.
        """
        ...


class Accelerator(Protocol):
    """A machine that multiplies with the frozen backbone, one call at a time."""

    def call(self, group: str, rows: int, *, backward: bool) -> Call:
        """Begin ``codes @ W^T`` (forward, int32 [T, K] -> [T, N]) or ``codes @ W`` (backward),
        mod 2^32.

        Args:
            group: of the slice plan.
            rows: T.

        Raises:
            AcceleratorLostError: no such group, or the answer of the last call was never taken.
        """
        ...

    def prefix(self, input_ids: Tensor) -> Tensor:
        """Embedding and leading plain blocks: int64 [B, T] -> float32 [B, T, D]."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...
