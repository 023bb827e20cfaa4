"""The mean of products B A of low-rank factors, as one such product again.

The mean of B_1 A_1 .. B_n A_n is no product of the factors' means, and its rank is the sum of
theirs. It is a product L R all the same: L [N, m] has the weighted columns of every B side by side,
R [m, K] the rows of every A below each other. Its singular value decomposition follows from the
triangles of the QR decompositions of L and R^T (Golub and Van Loan, Matrix Computations, 4th ed.,
8.6.3), so nothing of N x K numbers is ever made. Cutting it to the job's rank is FlexLoRA (Bai et
al., arXiv 2402.11505); what the cut costs is measured.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """One site's part of a mean.

    Attributes:
        weight: its share; all of them add up to 1.
        b: B [N, r].
        a: A [r, K].
    """

    weight: float
    b: Matrix
    a: Matrix


@dataclass(frozen=True)
class Losses:
    """Squared Frobenius norms; those of several layers add up.

    Attributes:
        whole: of the mean of products.
        cut: of what lies beyond the rank.
        factors: of the mean of products less the product of mean factors, which plain averaging
            makes of it (lower ranks filled up with zeros).
    """

    whole: float = 0.0
    cut: float = 0.0
    factors: float = 0.0

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.whole + other.whole, self.cut + other.cut, self.factors + other.factors)

    @property
    def residual(self) -> float:
        """What the cut took, relative to the whole."""
        return math.sqrt(self.cut / self.whole) if self.whole else 0.0

    @property
    def factor_error(self) -> float:
        """The error that averaging factors would have made, relative to the whole."""
        return math.sqrt(self.factors / self.whole) if self.whole else 0.0


def mean_product(
    sites: Sequence[Factors], spare: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], Losses]:
    """Factors of the best approximation of the mean that has the rank of ``spare``.

    Both factors have equal norms in each direction, the strongest direction is first, and the
    largest number of each column of B is positive: the same sites give the same bytes.

    Args:
        sites: in an order that does not depend on who answered first.
        spare: A [R, K] of the global adapter; a direction that the mean does not have keeps its row
            there, beside a B of zero: with both zero, no training could ever use it.

    Returns:
        B [N, R], A [R, K], and what was lost.
    """
    rank = len(spare)
    left = np.concatenate([s.weight * s.b for s in sites], axis=1)  # [N, m]
    right = np.concatenate([s.a for s in sites])  # [m, K]
    r_left, r_right = _triangle(left), _triangle(right.T)
    core = r_left @ r_right.T
    u, values, vt = np.linalg.svd(core, full_matrices=False)
    noise = np.linalg.norm(r_left) * np.linalg.norm(r_right) * len(right) * np.finfo(float).eps
    alive = int(np.count_nonzero(values[:rank] > noise))
    # Q_left u = L R_right^T v / value, and likewise on the right: the Qs are never made
    root = np.sqrt(values[:alive])
    b = left @ (r_right.T @ vt[:alive].T / root)
    a = (u[:, :alive].T @ r_left / root[:, None]) @ right
    sign = np.sign(b[np.abs(b).argmax(axis=0), np.arange(alive)])
    full_b, full_a = np.zeros((len(left), rank)), spare.astype(np.float64)
    full_b[:, :alive], full_a[:alive] = b * sign, a * sign[:, None]
    losses = Losses(
        whole=float(np.sum(values**2)),
        cut=float(np.sum(values[rank:] ** 2)),
        factors=_factor_loss(sites, rank, r_left, r_right),
    )
    return full_b.astype(np.float32), full_a.astype(np.float32), losses


def _triangle(matrix: Matrix) -> Matrix:
    """R of its QR decomposition."""
    return np.asarray(np.linalg.qr(matrix, mode="r"))


def _factor_loss(sites: Sequence[Factors], rank: int, r_left: Matrix, r_right: Matrix) -> float:
    """See ``Losses.factors``: the mean factors are L and R times the same stacked identities."""
    b = np.concatenate([np.eye(s.b.shape[1], rank) for s in sites])  # [m, R]
    a = np.concatenate([s.weight * np.eye(s.a.shape[0], rank) for s in sites])
    error = r_left @ r_right.T - (r_left @ b) @ (r_right @ a).T
    return float(np.sum(error**2))
