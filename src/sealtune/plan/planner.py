"""The slice plan of any job: each method's own, by its name.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from typing import Protocol

from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job


class Planner(Protocol):
    """A module that plans a method's jobs: see the functions below."""

    def make_plan(
        self, job: Job, num_labels: int | None, /, *, backbone: bool = True
    ) -> SlicePlan: ...

    def first_block(self, job: Job, blocks: int, /) -> int: ...


def _masked() -> Planner:
    from sealtune.plan import masked

    return masked


def _split() -> Planner:
    from sealtune.plan import split

    return split


def _owned() -> Planner:
    from sealtune.plan import owned

    return owned


PLANNERS = {"federated-lora": _masked, "federated-lora-secagg": _owned, "split": _split}


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = True) -> SlicePlan:
    """Decide which module of ``job``'s model runs where.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: also make the int8 backbone file, where the method needs one.

    Raises:
        ModelError, ConfigError: the model or the tuning cannot be planned.
    """
    return PLANNERS[job.job.rules.name]().make_plan(job, num_labels, backbone=backbone)


def first_block(job: Job, blocks: int) -> int:
    """The first of ``blocks`` blocks that ``job`` tunes.

    Raises:
        ConfigError: there is none.
    """
    return PLANNERS[job.job.rules.name]().first_block(job, blocks)
