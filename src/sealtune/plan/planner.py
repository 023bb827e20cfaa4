"""The slice plan of any job: each method's own, by its name.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job
from sealtune.plan import masked, split


class _MakePlan(Protocol):
    def __call__(self, job: Job, num_labels: int | None, /, *, backbone: bool) -> SlicePlan: ...


class Planner(NamedTuple):
    """What planning means for a method: see the functions below."""

    make_plan: _MakePlan
    first_block: Callable[[Job, int], int]


PLANNERS = {
    "federated-lora": Planner(masked.make_plan, lambda _job, _blocks: 0),
    "split": Planner(split.make_plan, split.cut_of),
}


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = True) -> SlicePlan:
    """Decide which module of ``job``'s model runs where.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: also make the int8 backbone file, where the method needs one.

    Raises:
        ModelError, ConfigError: the model or the tuning cannot be planned.
    """
    return PLANNERS[job.job.method].make_plan(job, num_labels, backbone=backbone)


def first_block(job: Job, blocks: int) -> int:
    """The first of ``blocks`` blocks that ``job`` tunes.

    Raises:
        ConfigError: there is none.
    """
    return PLANNERS[job.job.method].first_block(job, blocks)
