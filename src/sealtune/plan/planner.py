"""The slice plan of any job: cut in two, masked, or whole at each site.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from typing import Protocol

from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job


class Planner(Protocol):
    """A module that plans jobs of one kind: see the function below."""

    def make_plan(
        self, job: Job, num_labels: int | None, /, *, backbone: bool = True
    ) -> SlicePlan: ...


def _planner(job: Job) -> Planner:
    # loaded where a job asks for it, and only there
    if job.job.rules.server_trains:
        from sealtune.plan import split

        return split
    if job.accelerated:
        from sealtune.plan import masked

        return masked
    from sealtune.plan import whole

    return whole


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = True) -> SlicePlan:
    """Decide which module of ``job``'s model runs where.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: also make the int8 backbone file, where the job needs one.

    Raises:
        ModelError, ConfigError: the model or the tuning cannot be planned.
    """
    return _planner(job).make_plan(job, num_labels, backbone=backbone)


def first_block(job: Job, blocks: int) -> int:
    """The first of ``blocks`` blocks that ``job`` can tune: all of them, or those behind the cut.

    Raises:
        ConfigError: there is none.
    """
    if not job.job.rules.server_trains:
        return 0
    from sealtune.plan import split

    return split.first_block(job, blocks)
