"""A site's update: what its adapter differs by from the one that it was sent.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import UpdateBoundError
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.pieces import PIECE, pieces


@dataclass(frozen=True)
class Update:
    """Checked.

    Attributes:
        tensors: the differences, float32.
        norm: L2, of all tensors together.
    """

    tensors: dict[str, NDArray[np.float32]]
    norm: float

    def scale(self, factor: float) -> None:
        """Multiply all tensors."""
        for tensor in self.tensors.values():
            np.multiply(tensor, np.float32(factor), out=tensor)


def read_update(answer: Tensors, before: Tensors, limits: Mapping[str, float]) -> Update:
    """What ``answer`` differs by from ``before``.

    Args:
        answer: the site's adapter, finite or not.
        before: the adapter that its round began with.
        limits: tensor -> how far an honest round takes a number in it (``UpdateBound.limits``).

    Raises:
        UpdateBoundError: a number is farther away, or is none.
    """
    tensors, squares, wide = {}, 0.0, np.empty(PIECE)
    for name, limit in limits.items():
        difference = np.empty(before[name].shape, np.float32)
        new, old, flat = (one.reshape(-1) for one in (answer[name], before[name], difference))
        lowest = highest = 0.0
        for piece in pieces(flat.size):
            part = np.subtract(new[piece], old[piece], out=flat[piece])
            # NaN stays NaN in both, and fails the comparison
            lowest, highest = np.minimum(lowest, part.min()), np.maximum(highest, part.max())
            if not (-limit <= lowest and highest <= limit):
                break
            exact = wide[: part.size]
            exact[...] = part
            squares += float(exact @ exact)
        else:
            tensors[name] = difference
            continue
        raise UpdateBoundError(
            f"{name} was moved by {float(np.abs(flat[piece]).max()):.3g}; an honest round moves a "
            f"number by at most {limit:.3g}",
            hint="its training diverged, or it sends something else than it trained",
        )
    return Update(tensors, math.sqrt(squares))
