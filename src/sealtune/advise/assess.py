"""Everything that is estimated of a job, in one call.

Trust domain: operator.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealtune.advise.counts import Counts, count_data
from sealtune.advise.equipment import Equipment, take_stock
from sealtune.advise.estimate import Option, estimate
from sealtune.advise.shape import read_shape, structure_only
from sealtune.job.job_file import EquipmentSpec
from sealtune.job.spec import Job


@dataclass(frozen=True)
class Assessment:
    """What a job would take.

    Attributes:
        job: with a folder as its model's path.
        options: every way to run it.
        counts: of its data.
        equipment: what there is to compute with.
    """

    job: Job
    options: list[Option]
    counts: Counts
    equipment: Equipment

    @property
    def own(self) -> Option | None:
        """The way that the job itself names; None of one that is not estimated."""
        return next((option for option in self.options if option.own), None)


def assess(
    job: Job, labels: tuple[str, ...], stated: EquipmentSpec, *, probing: bool
) -> Assessment:
    """Count the job's model and data, and estimate every way to run it.

    Args:
        labels: its classes.
        stated: the job file's ``[equipment]``.
        probing: measure this machine for what ``[equipment]`` leaves out, which takes seconds;
            otherwise take a reference machine's figures.

    Raises:
        DataError, ModelError: data or model cannot be used.
    """
    job = job.model_copy(update={"model": structure_only(job.model)})
    classes = len(labels) if job.model.task == "classification" else 0
    shape = read_shape(job, classes or None)
    counts = count_data(job, labels)
    rows = round(counts.pooled_step().tokens)
    equipment = take_stock(stated, shape.width, shape.inner, rows, probing=probing)
    return Assessment(job, estimate(job, shape, counts, equipment), counts, equipment)
