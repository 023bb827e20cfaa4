"""A site's update: what its adapter differs by from the one that it was sent.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import UpdateBoundError
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.pieces import PIECE, in_threads, pieces

_Tensor = NDArray[np.float32]


@dataclass(frozen=True)
class Update(Mapping[str, _Tensor]):
    """The differences by name, float32, each computed when it is asked for; checked.

    Attributes:
        answer: the adapter that the site sent.
        before: the one that it was sent.
        norm: L2, of all tensors together, before ``factor``.
        factor: what every number is multiplied with.
    """

    answer: Tensors
    before: Tensors
    norm: float
    factor: float = 1.0

    def __getitem__(self, name: str) -> _Tensor:
        difference = np.subtract(self.answer[name], self.before[name])
        if self.factor != 1:
            np.multiply(difference, np.float32(self.factor), out=difference)
        return difference

    def __iter__(self) -> Iterator[str]:
        return iter(self.before)

    def __len__(self) -> int:
        return len(self.before)


def read_update(answer: Tensors, before: Tensors, limits: Mapping[str, float]) -> Update:
    """What ``answer`` differs by from ``before``.

    Args:
        answer: the site's adapter, finite or not.
        before: the adapter that its round began with.
        limits: tensor -> how far an honest round takes a number in it (``UpdateBound.limits``).

    Raises:
        UpdateBoundError: a number is farther away, or is none.
    """

    def squares(names: Sequence[str]) -> float:
        scratch = np.empty(PIECE, np.float32)
        # what overflows or is no number fails the comparison
        with np.errstate(over="ignore", invalid="ignore"):
            return math.fsum(
                _squares(name, answer[name], before[name], limits[name], scratch) for name in names
            )

    sums = in_threads(squares, {name: tensor.size for name, tensor in before.items()})
    return Update(answer, before, math.sqrt(math.fsum(sums)))


def _squares(name: str, answer: _Tensor, before: _Tensor, limit: float, scratch: _Tensor) -> float:
    """The sum of all differences' squares; numpy adds pairwise."""
    new, old = answer.reshape(-1), before.reshape(-1)
    sums = []
    for piece in pieces(new.size):
        part = scratch[: piece.stop - piece.start]
        np.subtract(new[piece], old[piece], out=part)
        np.multiply(part, part, out=part)
        if not part.max() <= limit**2:
            raise UpdateBoundError(
                # how far stays here: the reason leaves the enclave, whoever's update it is
                f"{name} was moved by more than {limit:.3g}, the most of an honest round",
                hint="its training diverged, or it sends something else than it trained",
            )
        sums.append(float(part.sum()))
    return math.fsum(sums)
