"""The settings of SPF.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from pydantic import Field

from sealtune.job.sections import SpfSpec


class SPFConfig(SpfSpec):
    """How many heads of each block are tuned, and which: a job's settings and what goes with them.

    With grouped queries, query heads and key/value heads are chosen apart; projections that have
    the same heads are chosen together where their shares are the same. ``gradient`` is the L1 norm
    of the loss gradient of a head's own weights, ``fisher`` the sum of its squares (a diagonal of
    the empirical Fisher information), ``activation`` the mean magnitude of a head's output.

    Attributes:
        seed: for ``random``.
        modules_to_save: names of further modules that are trained whole, such as a fresh
            classification head.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    modules_to_save: tuple[str, ...] = ()


def count_of(share: float, heads: int) -> int:
    """How many of ``heads`` a share stands for: rounded, but at least one if the share is not 0."""
    return 0 if share == 0 else max(1, int(share * heads + 0.5))
