"""The slice plan of any job: one function in front of the two methods' own.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job
from sealtune.plan import masked, split


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = True) -> SlicePlan:
    """Decide which module of ``job``'s model runs where.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: also make the int8 backbone file that a federated job needs.

    Raises:
        ModelError, ConfigError: the model or the tuning cannot be planned.
    """
    if job.job.method == "split":
        return split.make_split_plan(job, num_labels)
    return masked.make_plan(job, num_labels, backbone=backbone)
